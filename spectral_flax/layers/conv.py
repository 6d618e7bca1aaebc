# SPDX-License-Identifier: Apache-2.0
"""Convolutions and linear layers, with the arguments of ``nnx.Conv`` and PyTorch's padding."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.kernels.convolution import convolution, mirrored_convolution
from spectral_flax.layers.initializers import Initializer, kaiming_normal, normal, zeros

Size = int | Sequence[int]
Padding = Size | Sequence[tuple[int, int]] | Literal["SAME", "VALID"] | None
"""On both sides of each axis; None keeps the size at stride 1, with PyTorch's placement."""


def as_tuple(value: Size, rank: int, name: str) -> tuple[int, ...]:
    """Return ``value`` as ``rank`` positive integers, repeating a single one."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) != rank or not all(isinstance(v, int) and v >= 0 for v in values):
        raise ValueError(f"{name}={value!r}; expected a natural number or {rank} of them")
    return values


def as_padding(padding: Padding, extents: Sequence[int]) -> tuple[int, ...] | Literal["SAME"]:
    """Return the padding on both sides of each axis, of kernels of these dilated sizes; or "SAME".

    Raises:
      ValueError: ``padding`` is none of `Padding`, or differs between the sides of an axis.
    """
    if padding is None:
        return tuple((extent - 1) // 2 for extent in extents)
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(f"padding={padding!r}; expected numbers, 'SAME', 'VALID' or None")
        return "SAME" if padding == "SAME" else (0,) * len(extents)
    if isinstance(padding, Sequence) and all(isinstance(pair, Sequence) for pair in padding):
        if any(len(set(pair)) != 1 or len(pair) != 2 for pair in padding):
            raise ValueError(f"padding={padding!r}; expected the same on both sides of each axis")
        padding = [pair[0] for pair in padding]
    return as_tuple(padding, len(extents), "padding")


def conv(
    in_features: int,
    out_features: int,
    kernel_size: Size = 1,
    strides: Size = 1,
    *,
    rank: int = 2,
    padding: Padding = None,
    kernel_dilation: Size = 1,
    feature_group_count: int = 1,
    use_bias: bool = False,
    kernel_init: Initializer = kaiming_normal,
    bias_init: Initializer = zeros,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Build a convolution ``[N, *spatial, in_features] -> [N, *spatial', out_features]``.

    Arguments as of ``nnx.Conv``, but for three defaults: no bias, `kaiming_normal`, the padding.
    ``padding`` is that on both sides of each axis; None keeps the size at stride 1, with PyTorch's
    placement at larger strides: ``kernel_dilation * (kernel_size - 1) // 2``; "SAME" with
    TensorFlow's; "VALID" is none. A single ``kernel_size`` is that of all ``rank`` axes.

    Raises:
      ValueError: ``feature_group_count`` does not divide the channels, or a size is not a natural
        number.
    """
    groups = feature_group_count
    for name, features in (("in_features", in_features), ("out_features", out_features)):
        if features < 1 or groups < 1 or features % groups:
            multiple = f"a positive multiple of feature_group_count={groups}"
            raise ValueError(f"{name}={features} is not {multiple}")
    window = as_tuple(kernel_size, rank, "kernel_size")
    dilations = as_tuple(kernel_dilation, rank, "kernel_dilation")
    margins = as_padding(padding, dilated(window, dilations))
    return nnx.Conv(
        in_features,
        out_features,
        window,
        strides=as_tuple(strides, rank, "strides"),
        padding=margins if margins == "SAME" else tuple((m, m) for m in margins),
        kernel_dilation=dilations,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=convolution,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
    )


def dilated(window: Sequence[int], dilations: Sequence[int]) -> tuple[int, ...]:
    """Return the positions that a dilated kernel spans along each axis."""
    return tuple(d * (k - 1) + 1 for k, d in zip(window, dilations, strict=True))


def linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer = zeros,
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
        bias_init=bias_init,
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


def with_mirrored_rows(layer: nnx.Conv, x: jax.Array, margin: int) -> jax.Array:
    """Return the output for a map whose rows are padded by reflection, by a margin on both sides.

    The layer itself pads the other axes alone.
    """
    if not margin:
        return layer(x)
    kernel, bias = layer.kernel[...], None if layer.bias is None else layer.bias[...]
    x, kernel, bias = layer.promote_dtype((x, kernel, bias), dtype=layer.dtype)
    pads = list(layer.padding)
    pads[-2] = (margin, margin)
    y = mirrored_convolution(
        x,
        kernel,
        layer.strides,
        pads,
        rhs_dilation=layer.kernel_dilation,
        feature_group_count=layer.feature_group_count,
        precision=layer.precision,
    )
    return y if bias is None else y + per_channel(bias, y)


def per_channel(a: jax.Array, x: jax.Array) -> jax.Array:
    """Give a vector over the channels of ``x`` the rank of ``x``."""
    return a.reshape((1,) * (x.ndim - 1) + a.shape)
