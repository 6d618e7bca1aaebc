# SPDX-License-Identifier: Apache-2.0
"""Convolution: the fastest form for each case, without gathers on a data-parallel mesh."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import as_array
from spectral_flax.kernels.batch_parallel import batch_parallel
from spectral_flax.kernels.convolution_forms import convolution_form
from spectral_flax.kernels.halos import SharedRows
from spectral_flax.kernels.platforms import held_on_gpu

plain_convolutions = jax.make_user_context(False)
"""Within ``with plain_convolutions(True):`` every convolution is `jax.lax.conv_general_dilated`.

To compare with, or to look for a fault. A program is compiled for each of the two.
"""

whole_maps = jax.make_user_context(True)
"""Within ``with whole_maps(False):`` nothing takes a form that is for maps on one device alone.

For programs in which devices share the rows of maps: convolutions on the CPU are then those of
other platforms, and reflection moves rows, not maps.
"""


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: int | Sequence[int],
    padding: str | int | Sequence[tuple[int, int]],
    lhs_dilation: int | Sequence[int] | None = None,
    rhs_dilation: int | Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: lax.PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Convolve: ``[N, *spatial, C], [*window, C//groups, D] -> [N, *spatial', D]``.

    Takes the arguments of ``jax.lax.conv_general_dilated`` (so that ``nnx.Conv`` can be given it
    as ``conv_general_dilated``); without ``dimension_numbers`` channels are last. One integer may
    stand for all spatial axes. Pointwise kernels become matrix products; on the CPU gradients have
    forms of their own (see `convolution_forms`); grouped convolutions are computed by each device
    on its own examples, where XLA's partitioner would gather the batch.

    Raises:
      TypeError: x or kernel is not an array of numbers, or their dtypes differ.
      ValueError: shapes, groups or another argument do not fit each other.
    """
    x, kernel = as_array("x", x), as_array("kernel", kernel)
    if x.ndim != kernel.ndim or x.ndim < 3:
        raise ValueError(f"x and kernel have shapes {x.shape}, {kernel.shape}; expected one rank")
    if dimension_numbers is not None:
        x, kernel, from_last = _channels_last(x, kernel, dimension_numbers)
    _check(x, kernel, feature_group_count, batch_group_count)
    rank = x.ndim - 2
    strides = _sizes("window_strides", window_strides, rank)
    lhs_dilation = _sizes("lhs_dilation", lhs_dilation, rank)
    rhs_dilation = _sizes("rhs_dilation", rhs_dilation, rank)
    window = [d * (k - 1) + 1 for d, k in zip(rhs_dilation, kernel.shape, strict=False)]
    if isinstance(padding, str) and set(lhs_dilation) != {1}:
        raise ValueError(f"padding={padding!r} with lhs_dilation={lhs_dilation}; expected numbers")
    pairs = _margins(padding, x.shape[1:-1], window, strides)
    if min(map(min, pairs)) < 0:  # XLA's CPU backend reads beyond the input where it is cropped
        x = _padded(x, pairs, lhs_dilation)
        pairs, lhs_dilation = ((0, 0),) * rank, (1,) * rank
    options = _options(
        strides,
        pairs,
        lhs_dilation,
        rhs_dilation,
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
    )
    y = _apply(options, x, kernel) if out_sharding is None else options(x, kernel)
    if dimension_numbers is not None:
        y = _transposed(y, from_last)
    return y if out_sharding is None else jax.sharding.reshard(y, out_sharding)


def _padded(x, pairs, dilation):
    edges = [(*pair, d - 1) for pair, d in zip(pairs, dilation, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


@functools.partial(jax.jit, static_argnums=0)  # traced once for all layers of one shape
def _apply(options, x, kernel):
    if plain_convolutions.value:
        return options(x, kernel)
    rank = x.ndim - 2
    unpadded_point = set(kernel.shape[:-2]) == {1} and not any(map(any, options.padding))
    plain = options.feature_group_count == options.batch_group_count == 1
    plain = plain and set(options.lhs_dilation) == {1}
    strides, precision = options.window_strides, options.precision
    if plain and options.preferred_element_type is None and _has_forms(x, kernel):
        if unpadded_point:
            x, strides = _strided(x, strides), (1,) * rank
        dilation = options.rhs_dilation
        form = convolution_form(x, kernel, strides, options.padding, dilation, precision)
        return form(x, kernel)
    if unpadded_point and options.batch_group_count == 1 and set(options.lhs_dilation) == {1}:
        types = dict(precision=precision, preferred_element_type=options.preferred_element_type)
        return _pointwise(_strided(x, strides), kernel, options.feature_group_count, **types)
    if not whole_maps.value and _has_halos(options, x):
        return _shared(options, x, kernel)
    if options.feature_group_count == 1:
        return options(x, kernel)
    return batch_parallel(options, x, kernel, batch=(0, None), out=0)


def mirrored_convolution(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    feature_group_count: int = 1,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Convolve a map whose rows are padded by reflection, for devices that share them.

    Arguments as of `convolution`, for each axis. The others are padded by zeros.

    Raises:
      ValueError: rows are padded differently on both sides, by half of a window's or more, or by as
        many as there are.
    """
    rank, (before, after) = x.ndim - 2, padding[-2]
    window = rhs_dilation[-2] * (kernel.shape[-4] - 1) + 1
    if before != after or 2 * before >= window or before >= x.shape[-3]:
        raise ValueError(
            f"padding={padding} of rows by reflection, for {x.shape[-3]} rows and windows of "
            f"{window}; expected the same on both sides, less than half of a window and than rows"
        )
    pairs, strides = tuple(map(tuple, padding)), tuple(window_strides)
    options = _options(
        strides, pairs, (1,) * rank, tuple(rhs_dilation), feature_group_count, 1, precision, None
    )
    return _shared(options, x, kernel, mirrored=True)


def _options(strides, pairs, lhs_dilation, rhs_dilation, groups, batch_groups, precision, result):
    if precision is None:  # now: other settings may hold where gradients and devices are traced
        precision = jax.config.jax_default_matmul_precision
    precision = tuple(precision) if isinstance(precision, list) else precision
    numbers = lax.ConvDimensionNumbers(*_channels_last_numbers(len(strides)))
    return _Convolution(
        strides,
        pairs,
        lhs_dilation,
        rhs_dilation,
        numbers,
        groups,
        batch_groups,
        precision,
        result,
    )


def _shared(options, x, kernel, mirrored=False):
    window = options.rhs_dilation[-2] * (kernel.shape[-4] - 1) + 1
    shared, rows = SharedRows(options, x.shape[-3], window, mirrored), x.ndim - 3
    if plain_convolutions.value:
        return shared(x, kernel)
    axes = dict(batch=(0, None), out=0, split=(rows, None), split_out=rows)
    return batch_parallel(shared, x, kernel, **axes)


def _has_halos(options, x):
    """Return whether XLA fails on maps whose rows are split, and `SharedRows` does not.

    It gathers them, or with strides and fewer rows of the result than devices gives a kernel's
    gradient that is wrong.
    """
    if x.ndim < 4 or options.batch_group_count > 1:
        return False
    stride, dilation = options.window_strides[-2], options.lhs_dilation[-2]
    fails = options.feature_group_count > 1 or dilation > 1 or stride > 1
    return fails and 1 in (stride, dilation)


def _channels_last_numbers(rank):
    spatial = range(1, rank + 1)
    return (0, rank + 1, *spatial), (rank + 1, rank, *range(rank)), (0, rank + 1, *spatial)


def _channels_last(x, kernel, dimension_numbers):
    """Return both with channels last, and the axes of such a result in the order asked for."""
    given = lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers)
    last = _channels_last_numbers(x.ndim - 2)
    axes = []
    for one, other in zip(given, last, strict=True):  # where each axis of `other` is in `one`
        axes.append([one[other.index(axis)] for axis in range(x.ndim)])
    from_last = [axes[2].index(axis) for axis in range(x.ndim)]
    return _transposed(x, axes[0]), _transposed(kernel, axes[1]), from_last


def _transposed(x, axes):
    return x if list(axes) == list(range(x.ndim)) else jnp.transpose(x, axes)


def _check(x, kernel, groups, batch_groups):
    if x.dtype != kernel.dtype:
        raise TypeError(f"x has dtype {x.dtype} and kernel {kernel.dtype}; expected one dtype")
    counts = dict(feature_group_count=groups, batch_group_count=batch_groups)
    for name, count in counts.items():
        if not _is_positive(count):
            raise ValueError(f"{name}={count!r}; expected a positive integer")
    if groups > 1 and batch_groups > 1:
        raise ValueError(f"{counts}; expected one of them to be 1")
    *_, fan_in, features = kernel.shape
    if x.shape[-1] != fan_in * groups:
        raise ValueError(
            f"x has {x.shape[-1]} channels; expected {fan_in * groups}, those of a kernel of shape "
            f"{kernel.shape} with feature_group_count={groups}"
        )
    if features % (groups * batch_groups):
        raise ValueError(f"kernel has {features} features, no multiple of the groups in {counts}")
    if batch_groups > 1 and x.shape[0] % batch_groups:
        raise ValueError(f"x has {x.shape[0]} examples, no multiple of {batch_groups=}")


def _is_positive(value):
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1


def _sizes(name, value, rank) -> tuple[int, ...]:
    """Return a positive integer for each spatial axis; one is repeated for all, None is ones."""
    if value is None or isinstance(value, int | np.integer):
        value = (1 if value is None else value,) * rank
    values = tuple(value) if np.iterable(value) else ()
    if len(values) != rank or not all(map(_is_positive, values)):
        raise ValueError(f"{name}={value!r}; expected a positive integer or {rank} of them")
    return tuple(map(int, values))


def _margins(padding, sizes, window, strides) -> tuple[tuple[int, int], ...]:
    """Return the padding before and after each spatial axis."""
    if isinstance(padding, str) and padding.upper() in ("SAME", "SAME_LOWER", "VALID"):
        arrays = map(np.asarray, (sizes, window, strides))
        return tuple(lax.padtype_to_pads(*arrays, padding))
    try:
        if isinstance(padding, int | np.integer):
            padding = ((padding, padding),) * len(sizes)
        pairs = tuple((operator.index(low), operator.index(high)) for low, high in padding)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != len(sizes):
        raise ValueError(
            f"padding={padding!r}; expected 'SAME', 'SAME_LOWER', 'VALID', an integer or "
            f"{len(sizes)} pairs (before, after)"
        )
    return pairs


def _has_forms(x, kernel):
    """Return whether a primitive may replace this convolution.

    It has no rule for arrays whose type says how they are split, and none for symbolic sizes.
    """
    if not whole_maps.value or x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    if not all(isinstance(n, int) for n in (*x.shape, *kernel.shape)):
        return False
    context = jax.sharding.get_abstract_mesh()
    meshes = (context, *(jax.typeof(a).sharding.mesh for a in (x, kernel)))
    return not any(mesh.manual_axes or mesh.explicit_axes for mesh in meshes)


@dataclasses.dataclass(frozen=True)
class _Convolution:
    """The options of a convolution; a call does it."""

    window_strides: tuple
    padding: tuple
    lhs_dilation: tuple
    rhs_dilation: tuple
    dimension_numbers: lax.ConvDimensionNumbers
    feature_group_count: int
    batch_group_count: int
    precision: object
    preferred_element_type: object

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, **self.__dict__)


def _strided(x, strides):
    if set(strides) == {1}:
        return x
    # XLA's GPU compiler aborts where it fuses such a slice into the product that follows
    # (openxla/xla#47381).
    return held_on_gpu(x[(slice(None), *(slice(None, None, s) for s in strides))])


def _pointwise(x: jax.Array, kernel: jax.Array, groups: int, **options: Any) -> jax.Array:
    # dot_general, since tracing an einsum takes ten times as long and there is one in every layer.
    *_, fan_in, features = kernel.shape
    last = x.ndim - 1
    if groups == 1:
        contracted = (((last,), (0,)), ((), ()))
        return lax.dot_general(x, kernel.reshape(fan_in, features), contracted, **options)
    x = x.reshape(*x.shape[:-1], groups, fan_in)
    kernel = kernel.reshape(fan_in, groups, features // groups)
    y = lax.dot_general(x, kernel, (((last + 1,), (0,)), ((last,), (1,))), **options)
    y = jnp.moveaxis(y, 0, -2)  # the batch axis of a product, here the groups, comes first
    return y.reshape(*y.shape[:-2], features)
