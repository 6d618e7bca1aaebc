# SPDX-License-Identifier: Apache-2.0
"""Convolutions of several dilations side by side."""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.layers.checks import as_map
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics


class AtrousPyramid(nnx.Module):
    """Atrous spatial pyramid pooling: ``[N, H, W, in_features] -> [N, H, W, out_features]``.

    A pointwise convolution, a 3x3 one of each rate and one of the mean of the whole map, each with
    ``out_features``, are concatenated, projected, and in training dropped out.

    Args:
      in_features: channels of the input.
      out_features: channels of each branch and of the output.
      rates: dilations of the 3x3 convolutions.
      dropout: rate of dropout at the end.

    Raises:
      ValueError: there is no rate, or one is not positive.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017 (DeepLabV3).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 256,
        *,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        **numerics: Unpack[Numerics],
    ):
        if not rates or min(rates) < 1:
            raise ValueError(f"rates={tuple(rates)}; expected positive dilations")
        features = in_features, out_features
        self.point = ConvNormAct(*features, **numerics)
        self.atrous = nnx.List(
            [ConvNormAct(*features, 3, kernel_dilation=rate, **numerics) for rate in rates]
        )
        self.mean = ConvNormAct(*features, **numerics)
        self.project = ConvNormAct((len(rates) + 2) * out_features, out_features, **numerics)
        self.dropout = nnx.Dropout(dropout, rngs=numerics["rngs"]) if dropout else None
        self.in_features = in_features

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, 2, self.in_features)
        branches = [self.point(x), *(branch(x) for branch in self.atrous)]
        whole = self.mean(x.mean((1, 2), keepdims=True))
        branches.append(jnp.broadcast_to(whole, branches[0].shape))
        y = self.project(jnp.concatenate(branches, -1))
        return y if self.dropout is None else self.dropout(y)
