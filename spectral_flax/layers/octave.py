# SPDX-License-Identifier: Apache-2.0
"""Octave convolution: a map in two parts, the second at half the resolution.

Chen et al., "Drop an Octave: Reducing Spatial Redundancy in Convolutional Neural Networks with
Octave Convolution", ICCV 2019.
"""

from collections.abc import Callable
from typing import Any, Unpack

import jax
from flax import nnx

from spectral_flax.arrays import as_floating
from spectral_flax.functional.octaves import octave_down, octave_up
from spectral_flax.layers.activations import relu
from spectral_flax.layers.checks import check_rank
from spectral_flax.layers.conv import Padding, Size, as_tuple, conv
from spectral_flax.layers.ffc import split_channels
from spectral_flax.layers.norm import BatchNorm
from spectral_flax.layers.numerics import ConvNumerics, types_of

OctaveMap = jax.Array | tuple[jax.Array, jax.Array]
"""The high-frequency map ``[N, *, H, W, C]``, or with it the low one ``[N, *, H/2, W/2, C']``."""


class OctaveConv(nnx.Module):
    """Convolve each part of a map and exchange between them: an `OctaveMap` to another.

    Of the channels, ``int(ratio * features)`` are of low frequency; 0 is a map of one part. At
    stride 2 the parts are averaged first. Frames of a video are halved in space alone.

    Args:
      in_features: channels of both parts of the input.
      out_features: channels of both parts of the output.
      kernel_size: as in `conv`.
      ratio_in: share of the low frequencies in the input.
      ratio_out: share of the low frequencies in the output.
      rank: 2 for images, 3 for videos.
      strides: 1 or 2 in space, 1 in time.
      padding, kernel_dilation, feature_group_count, use_bias, kernel_init, bias_init: of each
        convolution, as in `conv`; the bias is added once to each part.

    Raises:
      ValueError: a ratio lies outside [0, 1) or leaves no channel, or there is no such stride; on a
        call, that the map is odd or has other parts.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 3,
        strides: Size = 1,
        *,
        ratio_in: float = 0.5,
        ratio_out: float = 0.5,
        rank: int = 2,
        padding: Padding = None,
        kernel_dilation: Size = 1,
        feature_group_count: int = 1,
        use_bias: bool = False,
        **numerics: Unpack[ConvNumerics],
    ):
        check_rank(rank)
        *time, height, width = as_tuple(strides, rank, "strides")
        if height != width or height not in (1, 2) or any(s != 1 for s in time):
            raise ValueError(f"strides={strides}; expected 1 or 2 in space, and 1 in time")
        for name, ratio in (("ratio_in", ratio_in), ("ratio_out", ratio_out)):
            if not 0 <= ratio < 1:
                raise ValueError(f"{name}={ratio} lies outside [0, 1): a high part there must be")
        self.in_low = split_channels(in_features, ratio_in, "ratio_in")
        self.out_low = split_channels(out_features, ratio_out, "ratio_out")
        self.in_features, self.out_features = in_features, out_features
        self.stride = height
        in_high, out_high = in_features - self.in_low, out_features - self.out_low

        window = dict(padding=padding, kernel_dilation=kernel_dilation, rank=rank)
        window |= dict(feature_group_count=feature_group_count)

        def between(start: int, end: int, bias: bool):
            if not start or not end:
                return None
            return conv(start, end, kernel_size, use_bias=bias, **window, **numerics)

        self.high_to_high = between(in_high, out_high, use_bias)
        self.low_to_high = between(self.in_low, out_high, False)
        self.high_to_low = between(in_high, self.out_low, use_bias)
        self.low_to_low = between(self.in_low, self.out_low, False)

    def __call__(self, x: OctaveMap) -> OctaveMap:
        high, low = self._parts(x)
        if self.stride == 2:  # the low part already has the resolution of the new high one
            high = octave_down(high)
        y = self.high_to_high(high)
        if low is not None:
            from_low = self.low_to_high(low)
            y = y + (from_low if self.stride == 2 else octave_up(from_low))
        if not self.out_low:
            return y
        y_low = self.high_to_low(octave_down(high))
        if low is not None:
            y_low = y_low + self.low_to_low(octave_down(low) if self.stride == 2 else low)
        return y, y_low

    def _parts(self, x: OctaveMap) -> tuple[jax.Array, jax.Array | None]:
        two = isinstance(x, tuple | list)
        high, low = as_floating(high=x[0], low=x[1]) if two else (as_floating(x=x), None)
        if two != (self.in_low > 0):
            expected = "a pair of maps" if self.in_low else "one map"
            raise ValueError(f"x is {'a pair' if two else 'one map'}; expected {expected}")
        channels = (high.shape[-1], low.shape[-1] if two else 0)
        wanted = (self.in_features - self.in_low, self.in_low)
        if channels != wanted:
            raise ValueError(f"x has {channels} channels of high and low frequency, not {wanted}")
        if (two or self.out_low or self.stride == 2) and (high.shape[-3] % 2 or high.shape[-2] % 2):
            raise ValueError(f"x has shape {high.shape}; octave convolution takes even H and W")
        half = (*high.shape[:-3], high.shape[-3] // 2, high.shape[-2] // 2)
        if two and low.shape[:-1] != half:
            raise ValueError(f"the low part has shape {low.shape}; expected {half} and channels")
        return high, low


class OctaveConvNormAct(nnx.Module):
    """Octave convolution, then normalisation and activation of each part.

    Arguments as in `ConvNormAct` and `OctaveConv`.
    """

    folds = (
        (("conv.high_to_high", "conv.low_to_high"), "norm_high"),
        (("conv.high_to_low", "conv.low_to_low"), "norm_low"),
    )

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 1,
        strides: Size = 1,
        *,
        activation: Callable[[jax.Array], jax.Array] | None = relu,
        epsilon: float = 1e-5,
        **options: Any,
    ):
        self.conv = OctaveConv(in_features, out_features, kernel_size, strides, **options)
        types = dict(epsilon=epsilon, **types_of(options))
        low = self.conv.out_low
        self.norm_high = BatchNorm(out_features - low, **types)
        self.norm_low = BatchNorm(low, **types) if low else None
        self.activation = activation

    def __call__(self, x: OctaveMap) -> OctaveMap:
        y = self.conv(x)
        if self.norm_low is None:
            y = self.norm_high(y)
        else:
            y = self.norm_high(y[0]), self.norm_low(y[1])
        return y if self.activation is None else jax.tree.map(self.activation, y)
