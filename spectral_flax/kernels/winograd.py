# SPDX-License-Identifier: Apache-2.0
"""Winograd's minimal filtering of 3x3 windows, 2x2 or 4x4 outputs at a time.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, F(2x2, 3x3) and
F(4x4, 3x3): a tile of 2x2 (4x4) outputs sees 4x4 (6x6) inputs; with both it and the kernel
transformed, 16 (36) multiplications take the place of 36 (144). The points of F(4x4, 3x3) are
fractions near 1, as Barabasz et al. recommend, "Error Analysis and Improving the Accuracy of
Winograd Convolution for Deep Neural Networks", ACM TOMS 2020. The rounding error is some three
(six) times that of the sum written out.
"""

import functools
import math
import operator
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = tuple[tuple[int, int], ...]
Rows = list[list[Fraction]]

_WINDOW = 3
_POINTS = {2: (0, 1, -1), 4: (0, Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))}


class Filtering(NamedTuple):
    """Matrices: ``outputs @ ((kernel @ k) * (inputs @ x))`` is x filtered by three weights k."""

    inputs: Rows
    kernel: Rows
    outputs: Rows


@functools.cache
def filtering(outputs: int) -> Filtering:
    """Return the matrices for so many outputs (2 or 4) at a time, by the method of Toom and Cook.

    A product of polynomials is interpolated from its values at some points and infinity;
    filtering is the transpose of multiplying by the polynomial with coefficients k.
    """
    points = [Fraction(a) for a in _POINTS[outputs]]
    others = [[b for b in points if b != a] for a in points]
    scales = [math.prod(a - b for b in rest) for a, rest in zip(points, others, strict=True)]
    values = [[a**k / s for k in range(_WINDOW)] for a, s in zip(points, scales, strict=True)]
    last = [[a**k for a in points] + [Fraction(k == outputs - 1)] for k in range(outputs)]
    return Filtering(
        inputs=[*([*_with_roots(rest), Fraction(0)] for rest in others), _with_roots(points)],
        kernel=[*values, [Fraction(k == _WINDOW - 1) for k in range(_WINDOW)]],
        outputs=last,
    )


def _with_roots(roots: list[Fraction]) -> list[Fraction]:
    """Return the coefficients of the polynomial with these roots, the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [a - root * b for a, b in zip([0, *found], [*found, 0], strict=True)]
    return found


def convolution_3x3(
    x: jax.Array, kernel: jax.Array, padding: Padding, transposed: bool = False, outputs: int = 2
) -> jax.Array:
    """Convolve ``[N, H, W, C], [3, 3, C, D] -> [N, H', W', D]`` without strides or dilation.

    ``padding`` is the number of zeros before and after H and W, none of them negative; if
    ``transposed``, the kernel is ``[3, 3, D, C]`` and flipped on both axes of the window.
    ``outputs``, 2 or 4, is the side of a tile. Tiles are transformed and multiplied a row of their
    positions at a time: fewer programs than position by position, in caches, unlike all at once.
    """
    batch, *spatial, channels = x.shape
    forms = filtering(outputs)
    size = outputs + _WINDOW - 1
    height, width = (n + sum(p) - _WINDOW + 1 for n, p in zip(spatial, padding, strict=True))
    rows, columns = -(-height // outputs), -(-width // outputs)
    (top, bottom), (before, after) = padding
    whole = (
        (top, bottom + outputs * rows - height),
        (before, after + outputs * columns - width),
    )
    # One barrier for both: otherwise XLA transforms the kernels of a whole network before its first
    # convolution.
    x, kernel = _apart((jnp.pad(x, ((0, 0), *whole, (0, 0))), kernel))
    bands = _apart(_combined(forms.inputs, _shifted(x, 1, rows, outputs)))
    kernels = _apart(list(_transformed_kernel(forms.kernel, kernel, flipped=transposed)))
    contracted = (((2,), (2 if transposed else 1,)), ((0,), (0,)))
    products = []
    for band, weights in zip(bands, kernels, strict=True):
        tiles = _combined(forms.inputs, _shifted(band, 2, columns, outputs))
        tiles = _apart(jnp.stack(tiles)).reshape(size, -1, channels)
        products.append(lax.dot_general(tiles, weights, contracted))
    features = kernel.shape[2 if transposed else 3]
    lines = _apart(_combined(forms.outputs, _apart(products)))
    back = _array(forms.outputs, x.dtype)
    y = jnp.stack([back @ line.reshape(size, -1) for line in lines])
    y = y.reshape(outputs, outputs, batch, rows, columns, features)
    y = y.transpose(2, 3, 0, 4, 1, 5).reshape(batch, outputs * rows, outputs * columns, features)
    return y[:, :height, :width]


def _apart(arrays):
    # Fused into its reader a transform would be computed again for each block of a product.
    return lax.optimization_barrier(arrays)


def _array(matrix: Rows, dtype) -> jax.Array:
    return jnp.asarray(np.array(matrix, np.float64), dtype)


def _shifted(x, axis, tiles, outputs):
    """Return, for each position of a tile along ``axis``, what all tiles have there."""
    starts = range(outputs + _WINDOW - 1)
    return [lax.slice_in_dim(x, i, i + outputs * (tiles - 1) + 1, outputs, axis) for i in starts]


def _combined(matrix: Rows, arrays):
    """Return the product of a matrix with arrays, written out."""
    terms = ([float(c) * a for c, a in zip(row, arrays, strict=True) if c] for row in matrix)
    return [functools.reduce(operator.add, row) for row in terms]


def _transformed_kernel(matrix: Rows, kernel, flipped):
    """Transform both axes of the window: ``[3, 3, ...]`` to as many rows and columns as a tile."""
    matrix = [row[::-1] for row in matrix] if flipped else matrix
    transform = _array(matrix, kernel.dtype)
    size = len(matrix)
    columns = jnp.tensordot(transform, kernel.reshape(_WINDOW, _WINDOW, -1), (1, 1))
    both = jnp.tensordot(transform, columns, (1, 1))
    return both.reshape(size, size, *kernel.shape[2:])
