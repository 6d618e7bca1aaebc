# SPDX-License-Identifier: Apache-2.0
"""Winograd's minimal filtering of 3x3 windows, 2x2 outputs at a time.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, F(2x2, 3x3): a tile
of 2x2 outputs sees 4x4 inputs; with both it and the kernel transformed, 16 multiplications take
the place of 36. The rounding error is some three times that of the sum written out.
"""

import jax
import jax.numpy as jnp
from jax import lax

_FLIPPED = 3, 1, 2, 0

Padding = tuple[tuple[int, int], ...]


def convolution_3x3(
    x: jax.Array, kernel: jax.Array, padding: Padding, transposed: bool = False
) -> jax.Array:
    """Convolve ``[N, H, W, C], [3, 3, C, D] -> [N, H', W', D]`` without strides or dilation.

    ``padding`` is the number of zeros before and after H and W, none of them negative; if
    ``transposed``, the kernel is ``[3, 3, D, C]`` and flipped on both axes of the window. One
    matrix product for each of the 16 positions in a transformed tile, over all tiles.
    """
    batch, *spatial, channels = x.shape
    height, width = (n + sum(p) - 2 for n, p in zip(spatial, padding, strict=True))
    rows, columns = (height + 1) // 2, (width + 1) // 2
    (top, bottom), (before, after) = padding
    even = (top, bottom + height % 2), (before, after + width % 2)
    # One barrier for both: otherwise XLA transforms the kernels of a whole network before its first
    # convolution.
    x, kernel = _apart((jnp.pad(x, ((0, 0), *even, (0, 0))), kernel))
    tiles = [
        tile
        for band in _apart(_transformed_input(x, 1, rows))
        for tile in _transformed_input(band, 2, columns)
    ]
    kernels = [k for row in _transformed_kernel(kernel) for k in _transformed_kernel(row)]
    if transposed:  # the transform of a flipped window has its first and last exchanged
        kernels = [kernels[4 * i + j] for i in _FLIPPED for j in _FLIPPED]
    contracted = (((1,), (1 if transposed else 0,)), ((), ()))
    products = [
        lax.dot_general(_apart(tile).reshape(-1, channels), k, contracted)
        for tile, k in zip(tiles, _apart(kernels), strict=True)
    ]
    products = _apart(products)
    bands = zip(*(_transformed_output(products[i : i + 4]) for i in range(0, 16, 4)), strict=True)
    shape = batch, rows, columns, kernel.shape[2 if transposed else 3]
    left, right = ([y.reshape(shape) for y in _transformed_output(band)] for band in bands)
    outputs = _apart([jnp.stack(pair, 3) for pair in zip(left, right, strict=True)])
    y = jnp.stack(outputs, 2).reshape(batch, 2 * rows, 2 * columns, -1)
    return y[:, :height, :width]


def _apart(arrays):
    # Fused into its reader a transform would be computed again for each block of a product.
    return lax.optimization_barrier(arrays)


def _transformed_input(x, axis, tiles):
    a, b, c, d = (lax.slice_in_dim(x, i, i + 2 * tiles - 1, 2, axis) for i in range(4))
    return [a - c, b + c, c - b, b - d]


def _transformed_kernel(kernel):
    a, b, c = kernel
    return [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c]


def _transformed_output(products):
    a, b, c, d = products
    return [a + b + c, b - c - d]
