# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution, which learns where to look."""

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.arrays import common
from spectral_flax.functional.deformable import deformable_convolution
from spectral_flax.layers.checks import as_map
from spectral_flax.layers.conv import Padding, Size, as_tuple, conv, per_channel
from spectral_flax.layers.initializers import Initializer, kaiming_normal, zeros
from spectral_flax.layers.numerics import Numerics, types_of


class DeformableConv(nnx.Module):
    """A convolution whose samples are displaced by an auxiliary one: ``[N, H, W, I] -> [..., O]``.

    The auxiliary convolution, zero at first, has the same window. It gives dy and dx of each
    position of the kernel and, modulated, a factor of each, which a sigmoid follows.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size, strides, padding, kernel_dilation: as in `conv`, but for "SAME".
      modulated: samples have factors (version 2).
      feature_group_count: 1, since every sample has all channels.
      rank: 2, for images.
      use_bias, kernel_init, bias_init: of the convolution of the samples.

    Raises:
      ValueError: feature_group_count or rank are others, or padding is "SAME".

    Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019; version 1: Dai
    et al., ICCV 2017.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 3,
        strides: Size = 1,
        *,
        modulated: bool = True,
        rank: int = 2,
        padding: Padding = None,
        kernel_dilation: Size = 1,
        feature_group_count: int = 1,
        use_bias: bool = False,
        kernel_init: Initializer = kaiming_normal,
        bias_init: Initializer = zeros,
        **numerics: Unpack[Numerics],
    ):
        if rank != 2 or feature_group_count != 1:
            given = f"rank={rank}, feature_group_count={feature_group_count}"
            raise ValueError(f"{given}; deformable convolution has 2 and 1")
        if padding == "SAME":
            raise ValueError("padding='SAME'; deformable convolution has the same on both sides")
        window = as_tuple(kernel_size, 2, "kernel_size")
        taps, types = window[0] * window[1], types_of(numerics)
        geometry = dict(strides=strides, padding=padding, kernel_dilation=kernel_dilation)
        auxiliary = dict(use_bias=True, kernel_init=zeros)
        channels = (3 if modulated else 2) * taps
        self.offset = conv(in_features, channels, window, **geometry, **auxiliary, **numerics)
        key = numerics["rngs"].params()
        shape = (*window, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(key, shape, types["param_dtype"]))
        self.bias = nnx.data(None)
        if use_bias:
            bias = bias_init(numerics["rngs"].params(), (out_features,), types["param_dtype"])
            self.bias = nnx.Param(bias)
        self.in_features, self.taps, self.modulated = in_features, taps, modulated
        self.dtype, self.precision = types["dtype"], numerics.get("precision")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, 2, self.in_features)
        auxiliary, kernel = self.offset(x), self.kernel[...]
        dtype = self.dtype or common(x, kernel)
        offsets, factors = jnp.split(auxiliary, [2 * self.taps], -1)
        mask = nnx.sigmoid(factors) if self.modulated else None
        geometry = dict(strides=self.offset.strides, kernel_dilation=self.offset.kernel_dilation)
        padding = tuple(before for before, _ in self.offset.padding)
        y = deformable_convolution(
            x.astype(dtype),
            kernel.astype(dtype),
            offsets,
            mask,
            padding=padding,
            precision=self.precision,
            **geometry,
        )
        return y if self.bias is None else y + per_channel(self.bias[...].astype(dtype), y)
