# SPDX-License-Identifier: Apache-2.0
"""Convolution in the form each case is fastest in, without gathers on a data-parallel mesh."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from spectral_flax.functional.convolution_forms import convolution_form
from spectral_flax.functional.sharding import batch_parallel


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    preferred_element_type=None,
    out_sharding=None,
) -> jax.Array:
    """Convolve: ``[N, *spatial, C], [*window, C//groups, D] -> [N, *spatial', D]``.

    Takes the arguments of ``jax.lax.conv_general_dilated`` (so that ``nnx.Conv`` can be given it
    as ``conv_general_dilated``) with channels last. Pointwise kernels become matrix products; on
    the CPU gradients have forms of their own (see `convolution_forms`); grouped convolutions are
    computed by each device on its own examples, where XLA's partitioner would gather the batch.
    """
    rank = x.ndim - 2
    strides = tuple(window_strides)
    pairs = (
        lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
        if isinstance(padding, str)
        else tuple(tuple(p) for p in padding)
    )
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    unpadded_point = set(kernel.shape[:-2]) == {1} and not any(map(any, pairs))
    if not isinstance(precision, None | str | lax.Precision):
        precision = tuple(precision)
    plain = feature_group_count == batch_group_count == 1 and set(lhs_dilation or (1,)) == {1}
    if plain and preferred_element_type is None and _has_forms(x, kernel):
        if unpadded_point:
            x, strides = _strided(x, strides), (1,) * rank
        dilation = tuple(rhs_dilation or (1,) * rank)
        return convolution_form(x, kernel, strides, pairs, dilation, precision)(x, kernel)
    if unpadded_point and not dilated and batch_group_count == 1:
        options = dict(precision=precision, preferred_element_type=preferred_element_type)
        return _pointwise(_strided(x, strides), kernel, feature_group_count, **options)
    spatial = "DHW"[-rank:]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    options = _Convolution(
        strides,
        tuple(pairs),
        lhs_dilation and tuple(lhs_dilation),
        rhs_dilation and tuple(rhs_dilation),
        numbers,
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
    )
    if feature_group_count == 1:
        return options(x, kernel)
    return batch_parallel(options, x, kernel, batch=(0, None), out=0)


def _has_forms(x, kernel):
    """Return whether a primitive may stand for this convolution.

    It has no rule for arrays whose type says how they are split, and none for symbolic sizes.
    """
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
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
    lhs_dilation: tuple | None
    rhs_dilation: tuple | None
    dimension_numbers: tuple
    feature_group_count: int
    batch_group_count: int
    precision: object
    preferred_element_type: object

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, **self.__dict__)


def _strided(x, strides):
    return x[(slice(None), *(slice(None, None, s) for s in strides))]


def _pointwise(x: jax.Array, kernel: jax.Array, groups: int, **options) -> jax.Array:
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
