# SPDX-License-Identifier: Apache-2.0
"""Bilinear attention: ``Y = P X Q`` with matrices computed from the map, expanded in blocks.

A matrix of the attention is n x n for an axis of length n t, and acts as its Kronecker product with
the t x t identity: position a of block i sees position a of every block. The product is never
formed; the axis is viewed as [n, t] and only n is contracted. Where an axis is no multiple of the
grid its last block is completed by repeating the border, and the addition is cut off afterwards.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from spectral_flax.arrays import as_fitting, as_floating, wide
from spectral_flax.functional.padding import repeat_last
from spectral_flax.kernels.batch_parallel import batch_parallel
from spectral_flax.kernels.pencils import Names, exchange

Normalization = Literal["sigmoid", "softmax"]

# Up to this many blocks in a map, one product with all pairs of blocks is faster than one per axis
# (forward and backward on CPU: 5.7 against 11.0 ms for [8, 28, 28, 128] in 7 x 7 blocks).
_JOINT = 64


def block_grid(size: int, grid: int) -> tuple[int, int]:
    """Return how many blocks an axis is cut in, and their length: ``n, t`` with ``n t >= size``.

    ``t = size // grid`` and ``n = ceil(size / t)``: n is the grid for its multiples and at most
    ``2 * grid - 1``.

    Raises:
      ValueError: the grid is larger than the axis.

    Published code of BAT for video, which needs n t equal to the size.
    """
    if grid > size:
        raise ValueError(f"grid={grid} is larger than the map, whose axis has length {size}")
    length = size // grid
    return -(-size // length), length


def map_grid(height: int, width: int, grid: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return `block_grid` of both axes: ``(n, t), (m, u)``.

    The width takes the height's number of blocks where that divides it, as the published code for
    video has it, and its own otherwise.
    """
    rows, columns = block_grid(height, grid), block_grid(width, grid)
    if width % rows[0] == 0:
        columns = rows[0], width // rows[0]
    return rows, columns


def normalize(logits: jax.Array, method: Normalization, axis: int) -> jax.Array:
    """Make the entries along ``axis`` positive with sum one, in float32 at least.

    "softmax" (published code for video), or "sigmoid" divided by its sum (published for images).
    """
    if method not in ("sigmoid", "softmax"):
        raise ValueError(f"normalization is {method!r}; expected 'sigmoid' or 'softmax'")
    logits = as_floating(logits=logits)
    logits = logits.astype(wide(logits.dtype))
    if method == "sigmoid":  # the same quotient; as logarithms it cannot become 0/0
        logits = jax.nn.log_sigmoid(logits)
    return jax.nn.softmax(logits, axis=axis)


def merge_windows(logits: jax.Array) -> jax.Array:
    """Lay matrices of sliding windows along a diagonal: ``[..., v, G, s, s] -> [..., G, n, n]``.

    Window i covers rows and columns i to i + s - 1 of ``n = s + v - 1``. An entry is the mean of
    the windows that cover it, or zero where none does. Published code of BAT for video.
    """
    logits = as_floating(logits=logits)
    windows, size = logits.shape[-4], logits.shape[-1]
    if windows == 1:
        return logits[..., 0, :, :, :]

    def place(x, i):
        pad = [(0, 0)] * (x.ndim - 2) + [(i, windows - 1 - i)] * 2
        return jnp.pad(x, pad)

    total = sum(place(logits[..., i, :, :, :], i) for i in range(windows))
    count = sum(place(jnp.ones((size, size), logits.dtype), i) for i in range(windows))
    share = 1 / jnp.maximum(count, 1)
    return total * share.reshape((1,) * (total.ndim - 2) + share.shape)


def bilinear_product(
    x: jax.Array,
    p: jax.Array,
    q: jax.Array,
    *,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Multiply each channel by both matrices: ``P X Q`` with P and Q expanded in blocks.

    ``[..., H, W, C], [..., G, n, n], [..., G, m, m] -> [..., H, W, C]``; group g is the g-th of G
    runs of C // G channels. Axes that are no multiple of n or m are completed as the module says.
    In the dtype of ``x``.

    Raises:
      TypeError: an argument is not a real floating array.
      ValueError: the shapes do not fit, C is no multiple of G, an axis of the map is empty, or a
        matrix has more blocks than it has positions.

    Chi, Yuan, Mu et al., "Non-Local Neural Networks with Grouped Bilinear Attentional Transforms",
    CVPR 2020.
    """
    x, p, q = as_fitting("...hwc ...gnn ...gmm", x=x, p=p, q=q)
    height, width, features = x.shape[-3:]
    groups, n, m = p.shape[-3], p.shape[-1], q.shape[-1]
    _check_product(features, groups, (height, n), (width, m))
    t, u = -(-height // n), -(-width // m)
    x = repeat_last(repeat_last(x, n * t, -3), m * u, -2)
    axis, rows = 0 if x.ndim > 3 else None, x.ndim - 3
    options = dict(batch=(axis,) * 3, out=axis, split=(rows, None, None), split_out=rows)
    y = batch_parallel(_BlockProduct(n * t, precision), x, p, q, **options)
    return y[..., :height, :width, :]


@dataclasses.dataclass(frozen=True)
class _BlockProduct:
    """The product of both matrices with a map that has whole blocks, ``height`` rows."""

    height: int
    precision: lax.PrecisionLike

    def __call__(self, x: jax.Array, p: jax.Array, q: jax.Array) -> jax.Array:
        return _block_product(x, p, q, self.precision)

    def across(self, names: Names) -> Callable[..., jax.Array]:
        def local(x, p, q):  # a part of the channels of each group meets all blocks
            groups = p.shape[-3]
            x = x.reshape(*x.shape[:-1], groups, -1)
            features = x.shape[-1]
            x = exchange(x, names, split=-1, join=-4, size=self.height)
            y = self(lax.collapse(x, x.ndim - 2), p, q)
            y = y.reshape(*y.shape[:-1], groups, -1)
            y = exchange(y, names, split=-4, join=-1, size=features)
            return lax.collapse(y, y.ndim - 2)

        return local


def _block_product(x, p, q, precision):
    *batch, height, width, features = x.shape
    groups, n, m = p.shape[-3], p.shape[-1], q.shape[-1]
    t, u = height // n, width // m
    y = x.reshape(*batch, n, t, m, u, groups, features // groups)
    lead = range(len(batch))
    to_groups = [*lead, *(len(batch) + i for i in (4, 0, 2, 1, 3, 5))]  # G n m t u c
    y = y.transpose(to_groups).reshape(*batch, groups, n, m, t * u * (features // groups))
    p, q = p.astype(x.dtype), jnp.swapaxes(q, -1, -2).astype(x.dtype)
    if n * m <= _JOINT:
        joint = p[..., :, None, :, None] * q[..., None, :, None, :]
        joint = joint.reshape(*joint.shape[:-4], n * m, n * m)
        joined = y.reshape(*batch, groups, n * m, y.shape[-1])
        y = jnp.matmul(joint, joined, precision=precision)
    else:
        shape = y.shape
        y = jnp.matmul(p, y.reshape(*batch, groups, n, m * shape[-1]), precision=precision)
        y = jnp.matmul(q[..., None, :, :], y.reshape(shape), precision=precision)
    y = y.reshape(*batch, groups, n, m, t, u, features // groups)
    to_map = [*lead, *(len(batch) + i for i in (1, 3, 2, 4, 0, 5))]
    return y.transpose(to_map).reshape(x.shape)


def temporal_product(
    x: jax.Array, matrix: jax.Array, *, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Mix frames: ``[N, T, ..., C], [N, G, n, n] -> [N, T, ..., C]`` with ``y_i = sum_j M_ij x_j``.

    Blocks, groups and errors as in `bilinear_product`.
    """
    x, matrix = as_floating(x=x, matrix=matrix)
    square = matrix.ndim == 4 and matrix.shape[-1] == matrix.shape[-2]
    if x.ndim < 3 or not square or x.shape[0] != matrix.shape[0]:
        raise ValueError(
            f"x, matrix have shapes {x.shape}, {matrix.shape}; "
            "expected [N, T, ..., C], [N, G, n, n]"
        )
    batch, frames, *_, features = x.shape
    groups, n = matrix.shape[-3], matrix.shape[-1]
    _check_product(features, groups, (frames, n))
    t = -(-frames // n)
    y = repeat_last(x, n * t, 1)
    shape = (batch, n, t * math.prod(x.shape[2:-1]), groups, features // groups)
    y = lax.collapse(y.reshape(shape).transpose(0, 3, 1, 2, 4), 3)
    y = jnp.matmul(matrix.astype(x.dtype), y, precision=precision)
    y = y.reshape(batch, groups, n, *shape[2:3], shape[-1]).transpose(0, 2, 3, 1, 4)
    return y.reshape(batch, n * t, *x.shape[2:])[:, :frames]


def reproject(
    activation: jax.Array,
    p: jax.Array,
    q: jax.Array,
    *,
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
) -> jax.Array:
    """Map weights of output positions back to the input: ``W = P^T A Q^T``, per group.

    ``[..., G, H, W], [..., G, n, n], [..., G, m, m] -> [..., G, H, W]``. With a single one in A,
    W is what that output position attends to.
    """
    activation, p, q = as_fitting("...ghw ...gnn ...gmm", activation=activation, p=p, q=q)
    p, q = jnp.swapaxes(p, -1, -2), jnp.swapaxes(q, -1, -2)
    weights = bilinear_product(jnp.moveaxis(activation, -3, -1), p, q, precision=precision)
    return jnp.moveaxis(weights, -1, -3)


def _check_product(features, groups, *axes):
    if features % groups:
        raise ValueError(f"x has {features} channels; expected a multiple of groups={groups}")
    for size, blocks in axes:
        if size == 0 or blocks == 0:
            raise ValueError(f"an axis of {size} in {blocks} blocks; expected neither to be empty")
        if blocks > size:
            raise ValueError(f"a matrix of {blocks} blocks is larger than an axis of {size}")
