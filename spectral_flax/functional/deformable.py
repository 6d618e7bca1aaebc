# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution: a convolution whose window is bent by what it sees."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_flax.arrays import as_floating, common, wide

MARGIN = 2  # zeros on each side hold every pair of neighbours that is beyond the border


def deformable_convolution(
    x: jax.Array,
    kernel: jax.Array,
    offsets: jax.Array,
    mask: jax.Array | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    kernel_dilation: Sequence[int] = (1, 1),
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolve displaced samples: ``[N, H, W, C], [k, l, C, D] -> [N, H', W', D]``.

    Each position of the kernel samples the map where a convolution would, plus its displacement
    (dy, dx) there, bilinearly; beyond the border the map is zero, for each of the four neighbours
    by itself. One position of the kernel is treated at a time, in the backward pass again, so that
    memory does not grow with the kernel. Samples are placed, and results added up, in float32 at
    least; the result has the common dtype of ``x`` and ``kernel``.

    Args:
      x: the map.
      kernel: as in a convolution.
      offsets: ``[N, H', W', 2 k l]`` in pixels, by position of the kernel, row by row: dy, then dx.
      mask: ``[N, H', W', k l]``, a factor of each sample (version 2); None: no factors (version 1).
      strides, padding, kernel_dilation: of rows and of columns, as in a convolution; ``padding`` is
        that on both sides.
      precision: of the products.

    Raises:
      ValueError: shapes do not fit each other.

    Dai et al., "Deformable Convolutional Networks", ICCV 2017; Zhu et al., "Deformable ConvNets
    v2", CVPR 2019.
    """
    x, kernel, offsets = as_floating(x=x, kernel=kernel, offsets=offsets)
    mask = None if mask is None else as_floating(mask=mask)
    size = _check(x, kernel, offsets, mask, strides, padding, kernel_dilation)
    rows, columns, features, out = kernel.shape
    taps, dtype = rows * columns, common(x, kernel)
    exact = wide(x.dtype, offsets.dtype)
    margin = (MARGIN, MARGIN)
    padded = jnp.pad(x.astype(dtype), ((0, 0), margin, margin, (0, 0)))
    moved = offsets.astype(exact).reshape(*offsets.shape[:3], taps, 2)
    factors = jnp.ones_like(moved[..., 0]) if mask is None else mask.astype(exact)
    grid = [
        np.arange(n) * stride - pad for n, stride, pad in zip(size, strides, padding, strict=True)
    ]
    ticks = np.stack(np.meshgrid(*grid, indexing="ij"), -1)
    reach = np.indices((rows, columns)).reshape(2, taps).T * np.asarray(kernel_dilation)
    each_tap = (
        kernel.astype(dtype).reshape(taps, features, out),
        jnp.moveaxis(moved, 3, 0),
        jnp.moveaxis(factors, 3, 0),
        jnp.asarray(reach, exact),
    )

    @jax.checkpoint
    def add_tap(total, tap):
        weight, displacement, factor, start = tap
        places = jnp.asarray(ticks, exact)[None] + start.reshape(1, 1, 1, 2) + displacement
        samples = sample(padded, places) * factor[..., None].astype(dtype)
        contracted = (((3,), (0,)), ((), ()))
        options = dict(precision=precision, preferred_element_type=total.dtype)
        return total + lax.dot_general(samples, weight, contracted, **options), None

    total = jnp.zeros((*offsets.shape[:3], out), wide(dtype))
    return lax.scan(add_tap, total, each_tap)[0].astype(dtype)


def sample(padded: jax.Array, places: jax.Array) -> jax.Array:
    """Sample a map between its pixels: ``[N, H + 4, W + 4, C], [N, *, 2] -> [N, *, C]``.

    ``places`` are row and column in the map without its margins, which are two zeros on each side.
    """
    height, width = (n - 2 * MARGIN for n in padded.shape[1:3])
    low = jnp.floor(places)
    share = places - low
    limits = jnp.asarray((height, width), places.dtype)
    # Pairs of neighbours that are both beyond the border are both in the margin.
    start = jnp.clip(low, -MARGIN, limits.reshape((1,) * (low.ndim - 1) + (2,)))
    start = start.astype(jnp.int32) + MARGIN
    windows = jax.vmap(_windows)(padded, start)
    dy, dx = (share[..., i, None].astype(padded.dtype) for i in range(2))
    # A weighted mean of rows, then of columns: two products with weights in place of four.
    top, bottom = windows[..., 0, :, :], windows[..., 1, :, :]
    rows = top * (1 - dy)[..., None] + bottom * dy[..., None]
    return rows[..., 0, :] * (1 - dx) + rows[..., 1, :] * dx


def _windows(image: jax.Array, start: jax.Array) -> jax.Array:
    """Return windows of 2 x 2 pixels: ``[H, W, C], [*, 2] -> [*, 2, 2, C]``."""
    lead = start.ndim - 1
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(lead, lead + 1, lead + 2), collapsed_slice_dims=(), start_index_map=(0, 1)
    )
    sizes = (2, 2, image.shape[-1])
    return lax.gather(image, start, numbers, sizes, mode="promise_in_bounds")


def _check(x, kernel, offsets, mask, strides, padding, kernel_dilation) -> tuple[int, int]:
    """Return the size of the result."""
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"x and kernel have shapes {x.shape}, {kernel.shape}; expected [N, H, W, C] and "
            "[k, l, C, D]"
        )
    if 0 in x.shape[1:]:
        raise ValueError(f"x has shape {x.shape}; expected no empty axis but that of the batch")
    geometry = dict(strides=strides, padding=padding, kernel_dilation=kernel_dilation)
    for name, values in geometry.items():
        least = 0 if name == "padding" else 1
        if len(values) != 2 or any(not isinstance(v, int) or v < least for v in values):
            raise ValueError(f"{name}={values!r}; expected two integers of at least {least}")
    spans = zip(x.shape[1:3], kernel.shape[:2], *geometry.values(), strict=True)
    size = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spans)
    if min(size) < 1:
        raise ValueError(f"x has shape {x.shape}: the kernel {kernel.shape[:2]} does not fit in it")
    taps = kernel.shape[0] * kernel.shape[1]
    wanted = dict(offsets=(offsets, 2 * taps), mask=(mask, taps))
    for name, (array, channels) in wanted.items():
        expected = (len(x), *size, channels)
        if array is not None and array.shape != expected:
            raise ValueError(f"{name} has shape {array.shape}; expected {expected}")
    return size
