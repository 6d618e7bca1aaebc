# SPDX-License-Identifier: Apache-2.0
"""Convolutions of videos in several steps: over space, over time, over products of frames."""

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.layers.activations import relu
from spectral_flax.layers.conv import Size, as_tuple, conv
from spectral_flax.layers.norm import BatchNorm, ConvNormAct
from spectral_flax.layers.numerics import ConvNumerics, types_of


class FactorisedConv(nnx.Module):
    """Convolve frames, normalise, rectify, convolve over time: ``[N, T, H, W, I] -> [..., O]``.

    The first convolution has the strides of space, the second that of time.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      kernel_size: of time, height and width.
      mid_features: channels between the two; None: as many as give the parameters of one 3x3x3
        convolution of this width.
      strides, kernel_dilation: of time, height and width.
      feature_group_count: of the convolution over space.
      epsilon: of the normalisation.

    Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018; with as many features
    between as come out, Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 3,
        strides: Size = 1,
        *,
        mid_features: int | None = None,
        kernel_dilation: Size = 1,
        feature_group_count: int = 1,
        epsilon: float = 1e-5,
        rank: int = 3,
        **numerics: Unpack[ConvNumerics],
    ):
        if rank != 3:
            raise ValueError(f"rank={rank}; expected 3: an image has no time to convolve")
        frames, *window = as_tuple(kernel_size, 3, "kernel_size")
        stride, *steps = as_tuple(strides, 3, "strides")
        apart, *spread = as_tuple(kernel_dilation, 3, "kernel_dilation")
        mid = features_between(in_features, out_features) if mid_features is None else mid_features
        options = dict(rank=3, **numerics)
        in_space = dict(strides=(1, *steps), kernel_dilation=(1, *spread))
        in_space |= dict(feature_group_count=feature_group_count)
        in_time = dict(strides=(stride, 1, 1), kernel_dilation=(apart, 1, 1))
        window = (1, *window)
        self.spatial = ConvNormAct(in_features, mid, window, epsilon=epsilon, **in_space, **options)
        self.temporal = conv(mid, out_features, (frames, 1, 1), **in_time, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.temporal(self.spatial(x))


def features_between(in_features: int, out_features: int) -> int:
    """Return the features between the two steps that give the parameters of a 3x3x3 convolution."""
    return 27 * in_features * out_features // (9 * in_features + 3 * out_features)


class RelationConv(nnx.Module):
    """Appearance beside relation: ``[N, T, H, W, I] -> [N, T', H', W', O]``.

    Appearance is a convolution of frames. Relation is one over three frames, squared, of which
    pairs of channels are averaged, so that it depends on products of frames. Both are normalised,
    concatenated, rectified and reduced to O channels by a pointwise convolution.

    Args:
      in_features: channels of the input.
      out_features: channels of the output, an even number.
      kernel_size: of time, for the relation, and of height and width.
      strides: of time, height and width.

    Raises:
      ValueError: the channels are odd.

    Wang et al., "Appearance-and-Relation Networks for Video Classification", CVPR 2018: the SMART
    block, as in wanglimin/ARTNet.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 3,
        strides: Size = 1,
        *,
        rank: int = 3,
        **numerics: Unpack[ConvNumerics],
    ):
        if rank != 3 or out_features % 2:
            raise ValueError(f"rank={rank}, out_features={out_features}; expected 3, even features")
        frames, *window = as_tuple(kernel_size, 3, "kernel_size")
        options = dict(rank=3, strides=strides, activation=None, **numerics)
        self.appearance = ConvNormAct(in_features, out_features, (1, *window), **options)
        self.relation = ConvNormAct(in_features, out_features, (frames, *window), **options)
        pairs = out_features // 2
        self.norm = BatchNorm(pairs, **types_of(numerics))
        self.reduce = conv(out_features + pairs, out_features, rank=3, **numerics)

    def __call__(self, x: jax.Array) -> jax.Array:
        square = jnp.square(self.relation(x))
        energy = self.norm(0.5 * (square[..., ::2] + square[..., 1::2]))
        return self.reduce(relu(jnp.concatenate([self.appearance(x), energy], -1)))
