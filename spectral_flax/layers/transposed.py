# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions with PyTorch's placement."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import as_floating
from spectral_flax.kernels.convolution import convolution
from spectral_flax.layers.conv import per_channel
from spectral_flax.layers.initializers import Initializer, kaiming_normal, zeros
from spectral_flax.layers.norm import BatchNorm


class TransposedConv(nnx.ConvTranspose):
    """Flax's transposed convolution, computed by `functional.convolution`.

    For numbers as padding and one batch axis, without a mask or a flipped kernel.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = None if self.bias is None else self.bias[...]
        x, kernel, bias = self.promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)
        ones = (1,) * len(self.kernel_size)
        options = dict(lhs_dilation=self.strides, precision=self.precision)
        y = convolution(x, kernel, ones, self.padding, **options)
        return y if bias is None else y + per_channel(bias, y)


def transposed_conv(
    in_features: int,
    out_features: int,
    kernel_size: int,
    strides: int = 2,
    *,
    padding: int = 0,
    output_padding: int = 0,
    use_bias: bool = False,
    kernel_init: Initializer = kaiming_normal,
    bias_init: Initializer = zeros,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> TransposedConv:
    """Build a transposed convolution ``[N, H, W, in_features] -> [N, H', W', out_features]``.

    H' is ``(H - 1) * strides - 2 * padding + kernel_size + output_padding``. The gradient of a
    convolution, and so a convolution of the map spread out by ``strides``, padded to match.
    """
    if not 0 <= padding < kernel_size:
        raise ValueError(f"padding={padding}; expected at least 0, less than kernel_size")
    before = kernel_size - 1 - padding
    return TransposedConv(
        in_features,
        out_features,
        (kernel_size,) * 2,
        strides=(strides,) * 2,
        padding=((before, before + output_padding),) * 2,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
    )


class TransposedConvNormAct(nnx.Module):
    """Transposed convolution, batch normalisation, ReLU: ``[N, H, W, I] -> [N, H', W', O]``.

    Arguments as in `transposed_conv`.
    """

    folds = (("conv", "norm"),)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        strides: int = 2,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        **options: Any,
    ):
        types = dict(dtype=dtype, param_dtype=param_dtype)
        channels = in_features, out_features
        self.conv = transposed_conv(*channels, kernel_size, strides, **types, **options)
        self.norm = BatchNorm(out_features, **types)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.conv(as_floating(x=x))))
