"""A fast Fourier convolution in plain NumPy, from published names and channels-first arrays.

Written from the formulas of Chi, Jiang and Mu, NeurIPS 2020, and their code, not from the layers.
"""

import itertools

import numpy as np

EPSILON = 1e-5


def convolve(x, weight, bias=None, *, strides=1, padding=0, dilation=1, groups=1):
    """Correlate ``[N, C, *spatial]`` with ``[O, C // groups, *window]``, one offset at a time."""
    rank = x.ndim - 2
    strides, padding, dilation = (np.broadcast_to(v, rank) for v in (strides, padding, dilation))
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    window = weight.shape[2:]
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, d, k, s in zip(x.shape[2:], dilation, window, strides, strict=True)
    ]
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    y = np.zeros((x.shape[0], groups, kernels.shape[1], *sizes))
    for offset in itertools.product(*map(range, window)):
        starts = [o * d for o, d in zip(offset, dilation, strict=True)]
        cut = [
            slice(a, a + s * (m - 1) + 1, s) for a, s, m in zip(starts, strides, sizes, strict=True)
        ]
        part = x[(slice(None), slice(None), *cut)]
        part = part.reshape(part.shape[0], groups, -1, *sizes)
        y += np.einsum("ngc...,goc->ngo...", part, kernels[(..., *offset)])
    y = y.reshape(y.shape[0], -1, *sizes)
    return y if bias is None else y + bias.reshape(-1, *(1,) * rank)


def normalise(x, state, name, training):
    """Batch normalisation by the batch's statistics in training, else by the running ones."""
    axes = (0, *range(2, x.ndim))
    mean, var = (state[f"{name}.running_{what}"] for what in ("mean", "var"))
    if training:
        mean, var = x.mean(axes), x.var(axes)
    column = lambda a: a.reshape(-1, *(1,) * (x.ndim - 2))
    scaled = (x - column(mean)) / np.sqrt(column(var) + EPSILON)
    return scaled * column(state[f"{name}.weight"]) + column(state[f"{name}.bias"])


def fourier_unit(x, state, name, groups, training):
    """Convolve the spectrum whose channels are real, imaginary, real, imaginary and so on."""
    spectrum = np.fft.rfft2(x, norm="ortho")
    parts = np.stack([spectrum.real, spectrum.imag], axis=2)
    parts = parts.reshape(x.shape[0], -1, *spectrum.shape[2:])
    parts = convolve(parts, state[f"{name}.conv_layer.weight"], groups=groups)
    parts = np.maximum(normalise(parts, state, f"{name}.bn", training), 0)
    parts = parts.reshape(x.shape[0], -1, 2, *spectrum.shape[2:])
    return np.fft.irfft2(parts[:, :, 0] + 1j * parts[:, :, 1], s=x.shape[-2:], norm="ortho")


def spectral_transform(x, state, *, name="convg2g.", groups=1, training=False, temporal_padding=0):
    padding = (temporal_padding, 0, 0) if x.ndim == 5 else 0
    x = convolve(x, state[f"{name}conv1.0.weight"], groups=groups, padding=padding)
    x = np.maximum(normalise(x, state, f"{name}conv1.1", training), 0)
    y = x + fourier_unit(x, state, f"{name}fu", groups, training)
    if f"{name}lfu.conv_layer.weight" in state:
        h, w = (-(-n // 2) for n in x.shape[-2:])
        some = x[:, : x.shape[1] // 4]
        even = np.pad(
            some, [*((0, 0),) * (x.ndim - 2), *((0, n % 2) for n in x.shape[-2:])], "edge"
        )
        quarters = [even[..., i : i + h, j : j + w] for j in (0, w) for i in (0, h)]
        unit = fourier_unit(np.concatenate(quarters, 1), state, f"{name}lfu", groups, training)
        y = y + np.tile(unit, (2, 2))[..., : x.shape[-2], : x.shape[-1]]
    return convolve(y, state[f"{name}conv2.weight"], groups=groups)


def block_means(x, count, *, extent, stride, padding, reflect):
    """Average ``count`` blocks of a line ``[..., n]``, as long as the stride.

    The first block stands where the first window of the convolution does: both are centred on one
    place, or half a position apart. A window that is padded by half its extent starts at 0; more
    padding is seen by the blocks too.
    """
    margin = max(0, padding - (extent - 1) // 2)
    x = np.pad(
        x, [(0, 0)] * (x.ndim - 1) + [(margin, margin)], "reflect" if reflect else "constant"
    )
    centre_of_window = (extent - 1) / 2 - padding
    centre_of_block = (stride - 1) / 2
    start = max(0, int(np.floor(centre_of_window - centre_of_block)))
    blocks = [x[..., start + i * stride :][..., :stride] for i in range(count)]
    return np.stack([b.mean(-1) if b.shape[-1] else np.zeros(b.shape[:-1]) for b in blocks], -1)


def ffc(
    state,
    x,
    *,
    ratio_in,
    kernel_size,
    strides,
    padding,
    dilation,
    groups=1,
    reflect=False,
    training=False,
):
    """Return the local and the global output, joined: ``[N, C, *spatial] -> [N, O, *spatial']``."""
    rank = x.ndim - 2
    glob = int(x.shape[1] * ratio_in)
    paths = {"l": x[:, : x.shape[1] - glob], "g": x[:, x.shape[1] - glob :]}
    window = np.broadcast_to(kernel_size, rank)
    strides, dilation = np.broadcast_to(strides, rank), np.broadcast_to(dilation, rank)
    extents = dilation * (window - 1) + 1
    padding = (extents - 1) // 2 if padding is None else np.broadcast_to(padding, rank)
    margins = [(0, 0), (0, 0), *((p, p) for p in padding)]
    outputs = {}

    def add(path, y):
        outputs[path] = outputs[path] + y if path in outputs else y

    for source, target in itertools.product("lg", "lg"):
        name = f"conv{source}2{target}"
        if f"{name}.weight" not in state:
            continue
        padded = np.pad(paths[source], margins, "reflect" if reflect else "constant")
        options = dict(strides=strides, dilation=dilation, groups=groups)
        bias = state.get(f"{name}.bias")
        add(target, convolve(padded, state[f"{name}.weight"], bias, **options))
    if "convg2g.conv2.weight" in state:
        pooled = paths["g"]
        for axis in range(rank):
            count = (x.shape[2 + axis] + 2 * padding[axis] - extents[axis]) // strides[axis] + 1
            if rank == 3 and axis == 0:  # the first convolution of the transform sees frames too
                count += (window[0] + 1) % 2
            lines = np.moveaxis(pooled, 2 + axis, -1)
            shape = dict(extent=extents[axis], stride=strides[axis], padding=padding[axis])
            lines = block_means(lines, count, **shape, reflect=reflect)
            pooled = np.moveaxis(lines, -1, 2 + axis)
        options = dict(groups=max(1, groups // 2), training=training)
        temporal_padding = (window[0] - 1) // 2
        add("g", spectral_transform(pooled, state, **options, temporal_padding=temporal_padding))
    return np.concatenate([outputs[path] for path in "lg" if path in outputs], 1)
