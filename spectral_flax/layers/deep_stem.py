# SPDX-License-Identifier: Apache-2.0
"""Several 3x3 convolutions in place of a network's first large one."""

from collections.abc import Callable, Sequence
from typing import Unpack

import jax
from flax import nnx

from spectral_flax.layers.activations import relu
from spectral_flax.layers.conv import Size, conv
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics


class DeepStem(nnx.Module):
    """Convolutions of 3x3, normalised and activated but for the last: ``[N, H, W, I] -> [..., O]``.

    It takes the place of one convolution, whose normalisation and activation follow. The first one
    has the stride.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size: 3.
      widths: features of the convolutions before the last.
      strides: of the first convolution.
      activation: behind each normalisation.

    He et al., "Bag of Tricks for Image Classification", CVPR 2019, after Szegedy et al., 2016.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 3,
        strides: Size = 1,
        *,
        widths: Sequence[int],
        rank: int = 2,
        activation: Callable[[jax.Array], jax.Array] = relu,
        **numerics: Unpack[Numerics],
    ):
        if not widths or min(widths) < 1:
            raise ValueError(f"widths={tuple(widths)}; expected features of one layer at least")
        units, features = [], in_features
        for width in widths:
            options = dict(strides=1 if units else strides, activation=activation, **numerics)
            units.append(ConvNormAct(features, width, kernel_size, rank=rank, **options))
            features = width
        self.units = nnx.List(units)
        self.last = conv(features, out_features, kernel_size, rank=rank, **numerics)

    def __call__(self, x: jax.Array) -> jax.Array:
        for unit in self.units:
            x = unit(x)
        return self.last(x)
