# SPDX-License-Identifier: Apache-2.0
"""Average and maximum pooling: adaptive, with PyTorch's bins, or by strides."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_flax.arrays import as_floating, wide
from spectral_flax.kernels.batch_parallel import batch_parallel
from spectral_flax.kernels.convolution import whole_maps
from spectral_flax.kernels.pencils import Names, exchange
from spectral_flax.kernels.platforms import ByPlatform


def adaptive_average_pool(
    x: jax.Array, sizes: Sequence[int], *, axes: Sequence[int] = (-3, -2)
) -> jax.Array:
    """Average each of ``axes`` over as many bins as ``sizes`` says, in the dtype of ``x``.

    Bin i of k over an axis of length n covers floor(i n/k) up to ceil((i + 1) n/k) - 1, so bins of
    uneven sizes share their border (and k > n repeats positions). Means are taken in float32 at
    least. The same as PyTorch's AdaptiveAvgPool.

    Raises:
      TypeError: ``x`` is not a real floating array.
      ValueError: ``sizes`` and ``axes`` differ in number, a size is not a positive integer, or one
        of the axes is empty.
    """
    x = as_floating(x=x)
    y = x.astype(wide(x.dtype))
    # The strongest reductions first: they save most work.
    plan = sorted(_plan(x, sizes, axes), key=lambda p: p[0] / x.shape[p[1]])
    for size, axis in plan:
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

    The same as PyTorch's AdaptiveMaxPool: of several positions of a bin that are largest the first,
    row by row, gets the gradient.
    """
    x = as_floating(x=x)
    # The last axis first, so that of equals the first row by row is taken.
    for size, axis in sorted(_plan(x, sizes, axes), key=lambda p: -p[1]):
        n = x.shape[axis]
        if n % size == 0:
            x = largest(_blocks(x, size, axis), axis + 1)
        else:
            bins = [lax.slice_in_dim(x, *limits, axis=axis) for limits in _bins(n, size)]
            x = jnp.stack([largest(b, axis) for b in bins], axis=axis)
    return x


def largest(x: jax.Array, axis: int) -> jax.Array:
    """Take the maximum of an axis, whose gradient goes to the first of the largest positions.

    In place of ``jnp.max``, whose gradient goes to what *equals* the maximum: to nothing, divided
    by nothing, where the compiler computes x a second time with other rounding.
    """
    while (n := x.shape[axis]) > 1:
        first, second = (lax.slice_in_dim(x, i, n - n % 2, 2, axis) for i in range(2))
        rest = lax.slice_in_dim(x, n - n % 2, n, axis=axis)
        x = jnp.concatenate([larger(first, second), rest], axis) if n % 2 else larger(first, second)
    return lax.squeeze(x, (axis,))


def larger(first: jax.Array, second: jax.Array) -> jax.Array:
    """Take the larger of two, and its gradient; of equals the first. NaN is larger."""
    return jnp.where((second > first) | (second != second), second, first)


def max_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Take the maximum of each window: ``[N, *spatial, C] -> [N, *spatial', C]``.

    Arguments and result as of ``nnx.max_pool``; positions that padding adds are never the maximum.
    Of several positions of a window that are largest the first, row by row, gets the gradient. On
    the CPU, and within `kernels.whole_maps` of False, that is computed axis by axis: what XLA makes
    of the gradient takes five times as long, and may gather maps whose rows devices share.

    Raises:
      TypeError: ``x`` is not a real floating array.
      ValueError: ``window`` and ``strides`` do not have a positive integer for each spatial axis,
        or one is empty.
    """
    x = as_floating(x=x)
    for name, values in (("window", window), ("strides", strides)):
        if len(values) != x.ndim - 2:
            raise ValueError(f"{name}={tuple(values)} for x of shape {x.shape}: one a spatial axis")
        _check_positive(name, values)
    _check_filled(x, range(1, x.ndim - 1))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], window, strides, padding)
    pairs = tuple((int(low), int(high)) for low, high in padding)
    return _max_pool(x, tuple(map(int, window)), tuple(map(int, strides)), pairs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, strides, padding):
    return _max_pool_at_once(x, window, strides, padding)


@_max_pool.defjvp
def _max_pool_jvp(window, strides, padding, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    at_once, by_axes = (
        _Derivative(form, window, strides, padding)
        for form in (_max_pool_at_once, _max_pool_by_axes)
    )
    y = _max_pool_at_once(x, window, strides, padding)
    if not whole_maps.value:  # where rows are shared, XLA may gather maps for its own form
        return y, by_axes(x, x_dot)
    # Linear in the second argument; the derivative by the first is zero.
    both = lax.stop_gradient(x), x_dot
    return y, batch_parallel(ByPlatform(at_once, cpu=by_axes), *both, batch=(0, 0))


@dataclasses.dataclass(frozen=True)
class _Derivative:
    """The derivative of a form of `max_pool` at ``x`` along ``x_dot``."""

    form: Callable[..., jax.Array]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def __call__(self, x: jax.Array, x_dot: jax.Array) -> jax.Array:
        pool = lambda x: self.form(x, self.window, self.strides, self.padding)
        return jax.jvp(pool, (x,), (x_dot,))[1]


def _max_pool_at_once(x, window, strides, padding):
    least = np.asarray(-np.inf, x.dtype)  # a constant, by which JAX knows a maximum
    return lax.reduce_window(
        x, least, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
    )


def _max_pool_by_axes(x, window, strides, padding):
    # The last axis first, so that of equals the first row by row is taken.
    for axis in reversed(range(1, x.ndim - 1)):
        size, stride, pair = window[axis - 1], strides[axis - 1], padding[axis - 1]
        margins = [(*pair, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        padded = lax.pad(x, jnp.full((), -jnp.inf, x.dtype), margins)
        last = padded.shape[axis] - size + 1
        views = (lax.slice_in_dim(padded, i, i + last, stride, axis) for i in range(size))
        x = functools.reduce(larger, views)
    return x


def average_pool(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """Average blocks: ``[N, *spatial, C] -> [N, *ceil(spatial / strides), C]``.

    ``strides`` has one entry for each spatial axis, the block's length. A last block that is not
    full is the mean of the positions it has. Dtype as in `adaptive_average_pool`.

    Raises:
      TypeError: ``x`` is not a real floating array.
      ValueError: ``strides`` are not a positive integer for each spatial axis, or one is empty.
    """
    x = as_floating(x=x)
    if len(strides) != x.ndim - 2:
        raise ValueError(f"strides={tuple(strides)} for x of shape {x.shape}: one a spatial axis")
    _check_positive("strides", strides)
    _check_filled(x, range(1, x.ndim - 1))
    if x.ndim < 4:
        return _block_means(x, strides)
    rows, strides = x.ndim - 3, tuple(map(int, strides))
    means = _BlockMeans(strides, x.shape[rows])
    return batch_parallel(means, x, split=(rows,), split_out=rows)


@dataclasses.dataclass(frozen=True)
class _BlockMeans:
    """Means of blocks of maps of ``height`` rows.

    XLA itself would split rows and the rows of a block over devices where the blocks are no
    multiple of them.
    """

    strides: tuple[int, ...]
    height: int

    def __call__(self, x: jax.Array) -> jax.Array:
        return _block_means(x, self.strides)

    def across(self, names: Names) -> Callable[[jax.Array], jax.Array]:
        *before, stride, last = self.strides
        along_rows = (*[1] * len(before), stride, 1)

        def local(x):
            y = _block_means(x, (*before, 1, last))
            whole = self.height % (lax.axis_size(names) * stride) == 0
            if stride == 1 or whole:
                return _block_means(y, along_rows)
            width = y.shape[-2]
            y = exchange(y, names, split=-2, join=-3, size=self.height)
            return exchange(_block_means(y, along_rows), names, split=-3, join=-2, size=width)

        return local


def _block_means(x, strides):
    y = x.astype(wide(x.dtype))
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
    x = as_floating(x=x)
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}; expected [N, T, ...]")
    _check_filled(x, [1])
    frames, half = x.shape[1], window // 2
    if method == "max":  # the outermost frames stand for those beyond: they are in the window too
        before, after = ([lax.index_in_dim(x, i, axis=1)] * half for i in (0, -1))
        padded = jnp.concatenate([*before, x, *after], axis=1)
    else:
        margins = [(half, half, 0) if i == 1 else (0, 0, 0) for i in range(x.ndim)]
        dtype = wide(x.dtype)
        padded = lax.pad(x.astype(dtype), jnp.zeros((), dtype), margins)
    shifted = (lax.slice_in_dim(padded, i, i + frames, axis=1) for i in range(window))
    if method == "max":
        return functools.reduce(larger, shifted)
    index = np.arange(frames)
    count = np.minimum(index + half, frames - 1) - np.maximum(index - half, 0) + 1
    share = jnp.asarray(1 / count, padded.dtype).reshape(1, frames, *(1,) * (x.ndim - 2))
    return (functools.reduce(jnp.add, shifted) * share).astype(x.dtype)


def _plan(x, sizes, axes):
    """Return pairs of size and non-negative axis."""
    if len(sizes) != len(axes):
        raise ValueError(f"sizes {tuple(sizes)} and axes {tuple(axes)} differ in number")
    _check_positive("sizes", sizes)
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise ValueError(f"axes {tuple(axes)} are not all axes of x, which has {x.ndim}")
    axes = [operator.index(axis) % x.ndim for axis in axes]
    _check_filled(x, axes)
    return list(zip(sizes, axes, strict=True))


def _check_positive(name, values):
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is {tuple(values)}; expected positive integers")


def _check_filled(x, axes):
    if any(x.shape[axis] == 0 for axis in axes):
        raise ValueError(f"x has shape {x.shape}; expected no empty axis among those to be pooled")


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
