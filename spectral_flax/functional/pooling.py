# SPDX-License-Identifier: Apache-2.0
"""Average and maximum pooling, adaptive with the bins that PyTorch defines or by strides."""

import functools
import operator
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def adaptive_average_pool(
    x: jax.Array, sizes: Sequence[int], *, axes: Sequence[int] = (-3, -2)
) -> jax.Array:
    """Average each of ``axes`` over as many bins as ``sizes`` says, in the dtype of ``x``.

    Bin i of k over an axis of length n covers floor(i n/k) up to ceil((i + 1) n/k) - 1, so bins of
    uneven sizes share their border (and k > n repeats positions). Means are taken in float32 at
    least. The same as PyTorch's AdaptiveAvgPool.

    Raises:
      ValueError: ``sizes`` and ``axes`` differ in number, or a size is not a positive integer.
    """
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for size, axis in _plan(x, sizes, axes):
        n = y.shape[axis]
        if n % size == 0:
            y = jnp.mean(_blocks(y, size, axis), axis=axis + 1)
        else:  # one small matrix product; uneven bins would otherwise be a gather
            table = jnp.asarray(_weights(n, size), y.dtype)
            y = jnp.tensordot(y, table, (axis, 1), precision=lax.Precision.HIGHEST)
            y = jnp.moveaxis(y, -1, axis)
    return y.astype(x.dtype)


def adaptive_max_pool(
    x: jax.Array, sizes: Sequence[int], *, axes: Sequence[int] = (-3, -2)
) -> jax.Array:
    """Take the maximum of each of ``axes`` over bins; bins and errors as `adaptive_average_pool`.

    The same as PyTorch's AdaptiveMaxPool. Where several positions of a bin are largest they share
    the gradient.
    """
    for size, axis in _plan(x, sizes, axes):
        n = x.shape[axis]
        if n % size == 0:
            x = jnp.max(_blocks(x, size, axis), axis=axis + 1)
        else:
            bins = [lax.slice_in_dim(x, *limits, axis=axis) for limits in _bins(n, size)]
            x = jnp.concatenate([jnp.max(b, axis=axis, keepdims=True) for b in bins], axis=axis)
    return x


def average_pool(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """Average blocks: ``[N, *spatial, C] -> [N, *ceil(spatial / strides), C]``.

    ``strides`` has one entry for each spatial axis, the block's length. A last block that is not
    full is the mean of the positions it has. Dtype as in `adaptive_average_pool`.
    """
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis, stride in enumerate(strides, start=1):
        n = y.shape[axis]
        if stride == 1:
            continue
        rest = -n % stride
        if rest:
            y = jnp.pad(y, [(0, rest if i == axis else 0) for i in range(y.ndim)])
        y = jnp.sum(_blocks(y, y.shape[axis] // stride, axis), axis=axis + 1)
        counts = np.full(y.shape[axis], stride)
        counts[-1] -= rest
        shape = [-1 if i == axis else 1 for i in range(y.ndim)]
        y = y / jnp.asarray(counts, y.dtype).reshape(shape)
    return y.astype(x.dtype)


def pool_frames(
    x: jax.Array, window: int, method: Literal["average", "max"] = "average"
) -> jax.Array:
    """Pool each frame with its neighbours: ``[N, T, ...] -> [N, T, ...]``.

    ``window`` frames, an odd number, centred on each; those that do not exist are left out.

    Raises:
      ValueError: ``window`` is even or not positive, or the method is unknown.
    """
    if not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise ValueError(f"window={window!r}; expected a positive odd number")
    if method not in ("average", "max"):
        raise ValueError(f"method={method!r}; expected 'average' or 'max'")
    frames, half = x.shape[1], window // 2
    outside = jnp.asarray(0 if method == "average" else -jnp.inf, x.dtype)
    padded = lax.pad(x, outside, [(half, half, 0) if i == 1 else (0, 0, 0) for i in range(x.ndim)])
    shifted = (lax.slice_in_dim(padded, i, i + frames, axis=1) for i in range(window))
    if method == "max":
        return functools.reduce(jnp.maximum, shifted)
    index = np.arange(frames)
    count = np.minimum(index + half, frames - 1) - np.maximum(index - half, 0) + 1
    share = jnp.asarray(1 / count, x.dtype).reshape(1, frames, *(1,) * (x.ndim - 2))
    return functools.reduce(jnp.add, shifted) * share


def _plan(x, sizes, axes):
    """Pairs of size and non-negative axis, the strongest reductions first: they save most work."""
    if len(sizes) != len(axes):
        raise ValueError(f"sizes {tuple(sizes)} and axes {tuple(axes)} differ in number")
    for size in sizes:
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"sizes is {tuple(sizes)}; expected positive integers")
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise ValueError(f"axes {tuple(axes)} are not all axes of x, which has {x.ndim}")
    axes = [operator.index(axis) % x.ndim for axis in axes]
    return sorted(zip(sizes, axes, strict=True), key=lambda p: p[0] / max(x.shape[p[1]], 1))


def _blocks(x, size, axis):
    return x.reshape(*x.shape[:axis], size, x.shape[axis] // size, *x.shape[axis + 1 :])


def _bins(n: int, size: int) -> list[tuple[int, int]]:
    return [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]


@functools.lru_cache(maxsize=256)
def _weights(n: int, size: int) -> np.ndarray:
    table = np.zeros((size, n))
    for row, (start, stop) in zip(table, _bins(n, size), strict=True):
        row[start:stop] = 1 / (stop - start)
    return table
