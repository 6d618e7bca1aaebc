# SPDX-License-Identifier: Apache-2.0
"""Convolutions and linear layers, with PyTorch's padding."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.kernels.convolution import convolution
from spectral_flax.layers.initializers import Initializer, kaiming_normal, normal, zeros

Size = int | Sequence[int]


def as_tuple(value: Size, rank: int, name: str) -> tuple[int, ...]:
    """Return ``value`` as ``rank`` positive integers, repeating a single one."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) != rank or not all(isinstance(v, int) and v >= 0 for v in values):
        raise ValueError(f"{name}={value!r}; expected a natural number or {rank} of them")
    return values


def conv(
    in_features: int,
    out_features: int,
    kernel_size: Size = 1,
    *,
    rank: int = 2,
    strides: Size = 1,
    padding: Size | Literal["SAME"] | None = None,
    dilation: Size = 1,
    groups: int = 1,
    use_bias: bool = False,
    kernel_init: Initializer = kaiming_normal,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Build a convolution ``[N, *spatial, in_features] -> [N, *spatial', out_features]``.

    ``padding`` is that on both sides of each axis; None keeps the size at stride 1, with PyTorch's
    placement at larger strides: ``dilation * (kernel_size - 1) // 2``; "SAME" with TensorFlow's.

    Raises:
      ValueError: ``groups`` does not divide the channels, or a size is not a natural number.
    """
    for name, features in (("in_features", in_features), ("out_features", out_features)):
        if features < 1 or groups < 1 or features % groups:
            raise ValueError(f"{name}={features} is not a positive multiple of groups={groups}")
    window = as_tuple(kernel_size, rank, "kernel_size")
    dilations = as_tuple(dilation, rank, "dilation")
    if padding is None:
        padding = [d * (k - 1) // 2 for k, d in zip(window, dilations, strict=True)]
    if padding != "SAME":
        padding = tuple((p, p) for p in as_tuple(padding, rank, "padding"))
    return nnx.Conv(
        in_features,
        out_features,
        window,
        strides=as_tuple(strides, rank, "strides"),
        padding=padding,
        kernel_dilation=dilations,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=zeros,
        conv_general_dilated=convolution,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
    )


def linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Build a linear layer: ``[..., in_features] -> [..., out_features]``.

    The kernel is drawn with variance 1 / (3 * in_features) unless ``kernel_init`` says otherwise.
    """
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=kernel_init or normal(math.sqrt(1 / (3 * in_features))),
        bias_init=zeros,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
    )


def fused_convolution(convs: Sequence[nnx.Conv], x: jax.Array) -> jax.Array:
    """Return the concatenated outputs of several convolutions, computed as one.

    They differ in their numbers of channels only. Each reads as many of the first channels of
    ``x`` as it has inputs: its kernel is padded with zeros for the others.
    """
    first = convs[0]

    def widened(kernel):
        missing = x.shape[-1] - kernel.shape[-2]
        return jnp.pad(kernel, ((0, 0),) * (kernel.ndim - 2) + ((0, missing), (0, 0)))

    kernel = jnp.concatenate([widened(conv.kernel[...]) for conv in convs], -1)
    biases = [
        jnp.zeros(conv.out_features, kernel.dtype) if conv.bias is None else conv.bias[...]
        for conv in convs
    ]
    biased = any(conv.bias is not None for conv in convs)
    bias = jnp.concatenate(biases) if biased else None
    x, kernel, bias = first.promote_dtype((x, kernel, bias), dtype=first.dtype)
    y = convolution(
        x,
        kernel,
        first.strides,
        first.padding,
        rhs_dilation=first.kernel_dilation,
        precision=first.precision,
    )
    return y if bias is None else y + per_channel(bias, y)


def per_channel(a, x):
    """Give a vector over the channels of ``x`` the rank of ``x``."""
    return a.reshape((1,) * (x.ndim - 1) + a.shape)
