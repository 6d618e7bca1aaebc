# SPDX-License-Identifier: Apache-2.0
"""Feature refinement: inpainting of sizes beyond those that a network was trained for.

The image is filled in at a size that the network knows, and then at twice and four times that size.
There the map between encoder and decoder is optimised, so that the result, reduced by half, is the
smaller result inside the hole and the image outside.

Kulshreshtha, Pugh and Jiddi, "Feature Refinement to Improve High Resolution Image Inpainting",
2022, arXiv 2206.13644.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import nnx
from jax import lax

from spectral_flax.kernels.cpu import compiler_options
from spectral_flax.models.inpainting import Lama, masked_input

# As published, with sizes up to 1.8 million pixels.
SIDE = 512  # pixels, about, of the shorter side of the coarsest scale
SCALES = 3  # at most, each twice the one before
ITERATIONS = 15  # of a scale, the last of which only looks at the result
RATE = 0.002  # of Adam
EROSION = 15  # pixels across: where a hole is nearer to its border, the coarse result is not asked

MULTIPLE = 8  # of the sides of every scale


def scales_of(size: tuple[int, int], finest: int) -> list[int]:
    """Return the scales to fill an image in at, coarse to fine: how often its sides are halved."""
    known = round(np.log2(max(min(size) / SIDE, 1)))
    return list(range(min(max(known, finest), finest + SCALES - 1), finest - 1, -1))


def refined(
    model: Lama,
    image: np.ndarray,
    missing: np.ndarray,
    finest: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Fill in ``[H, W, 3]`` in [0, 1] where ``bool [H, W]`` says: the result, ``[H, W, 3]``.

    ``finest`` is how often the sides of the finest scale are halved; its result is enlarged.
    Known pixels are nearly kept.
    """
    size, scales = missing.shape, scales_of(missing.shape, finest)
    margins = [(0, -n % (MULTIPLE << scales[0])) for n in size]
    images = [np.pad(image, [*margins, (0, 0)], mode="symmetric")]
    masks = [np.pad(missing, margins, mode="symmetric")]
    for _ in range(scales[0]):
        images.append(np.asarray(halved(images[-1])))
        masks.append(touched(masks[-1]))
    graphdef, state = nnx.split(nnx.view(model, remat=True))
    coarse = None
    for scale in scales:
        x, m = images[scale][None], masks[scale][None, ..., None].astype(np.float32)
        z = _compiled(_encoded)(graphdef, state, x, m)
        if coarse is not None:
            inner = _inner(masks[scale])[None, ..., None].astype(np.float32)
            moments = jax.tree.map(jnp.zeros_like, (z, z))
            for step in range(1, ITERATIONS):
                report(f"scale {x.shape[1]} x {x.shape[2]}, step {step} of {ITERATIONS - 1}")
                z, moments = _compiled(_stepped)(
                    graphdef, state, z, moments, step, x, m, coarse, inner
                )
        y = np.asarray(_compiled(_decoded)(graphdef, state, z))
        coarse = y * m + x * (1 - m)
    enlarged = jax.image.resize(coarse[0], (*masks[0].shape, 3), "linear")
    return np.asarray(enlarged)[: size[0], : size[1]]


def abstract_step(model: Lama, size: tuple[int, int]) -> jax.stages.Traced:
    """Return the trace of a step of the optimisation, which takes the most memory."""
    graphdef, state = nnx.split(nnx.view(model, remat=True))
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    height, width = (-(-n // (2 * MULTIPLE)) * 2 * MULTIPLE for n in size)

    def of(shape, channels):
        return jax.ShapeDtypeStruct((1, *shape, channels), jnp.float32)

    large, small = (height, width), (height // 2, width // 2)
    x, m, coarse, inner = of(large, 3), of(large, 1), of(small, 3), of(small, 1)
    z = jax.eval_shape(functools.partial(_encoded, graphdef), state, x, m)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return _compiled(_stepped).trace(graphdef, state, z, (z, z), step, x, m, coarse, inner)


@functools.cache
def _compiled(function):
    # Not at import: the choice of options initialises JAX's devices.
    return jax.jit(function, static_argnums=0, compiler_options=compiler_options())


def _encoded(graphdef, state, image, mask):
    return nnx.merge(graphdef, state).encode(masked_input(image, mask))


def _decoded(graphdef, state, z):
    return nnx.merge(graphdef, state, copy=True).decode(z).astype(jnp.float32)


def _stepped(graphdef, state, z, moments, step, image, mask, coarse, inner):
    """Return the map after a step of Adam, and the moments of its gradients."""

    def loss(z):
        y = _decoded(graphdef, state, z)
        return _mean(jnp.abs(y - image), 1 - mask) + _mean(jnp.abs(halved(y) - coarse), inner)

    gradient = jax.grad(loss)(z)
    mean, square = moments
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    scale = jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    return z - RATE * scale * mean / (jnp.sqrt(square) + 1e-8), (mean, square)


def _mean(x, weights):
    return (x * weights).sum() / (x.shape[-1] * jnp.maximum(weights.sum(), 1))


def halved(x):
    """Blur ``[..., H, W, C]`` by a Gaussian of one pixel, five across; average two by two."""
    *batch, height, width, channels = x.shape
    weights = jnp.exp(-0.5 * jnp.arange(-2, 3.0) ** 2)
    weights /= weights.sum()
    for axis in (x.ndim - 3, x.ndim - 2):
        padded = jnp.pad(x, [(2 * (i == axis),) * 2 for i in range(x.ndim)], mode="reflect")
        shifted = (lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(5))
        x = sum(w * part for w, part in zip(weights, shifted, strict=True))
    return x.reshape(*batch, height // 2, 2, width // 2, 2, channels).mean((-4, -2))


def touched(missing):
    """Return which pixels of half the size a hole enters, blurred as the image is."""
    wide = scipy.ndimage.binary_dilation(missing, np.ones((5, 5)))
    height, width = wide.shape
    return wide.reshape(height // 2, 2, width // 2, 2).any((1, 3))


def _inner(missing):
    """Return which pixels of half the size lie well inside a hole."""
    height, width = missing.shape
    whole = missing.reshape(height // 2, 2, width // 2, 2).all((1, 3))
    rows, columns = (edge - EROSION // 2 for edge in np.ogrid[:EROSION, :EROSION])
    disc = rows**2 + columns**2 <= (EROSION // 2) ** 2
    return scipy.ndimage.binary_erosion(whole, disc, border_value=1)
