# SPDX-License-Identifier: Apache-2.0
"""Layers that filter the spectrum of a map: global filters, adaptive mixers, Fourier operators."""

import math
from collections.abc import Sequence
from typing import Unpack

import jax
from flax import nnx

from spectral_flax.arrays import common
from spectral_flax.functional.fourier import Implementation
from spectral_flax.functional.spectral_filters import (
    fourier_mixer,
    global_filter,
    spectral_convolution,
)
from spectral_flax.layers.checks import as_map, check_multiple, check_positive, check_rank
from spectral_flax.layers.conv import conv, per_channel
from spectral_flax.layers.initializers import normal, zeros
from spectral_flax.layers.norm import BatchNorm
from spectral_flax.layers.numerics import Numerics, types_of


class GlobalFilter(nnx.Module):
    """A learned number for each frequency of each channel: ``[N, *size, C]`` to the same.

    Args:
      features: channels C.
      size: H and W, or T, H and W, of the only maps that it takes.
      rank: 2 for images, 3 for videos; None: as many as ``size`` has. With H and W alone it filters
        a video frame by frame.
      implementation: of the transform, as in `RealFFT`.

    Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021.
    """

    def __init__(
        self,
        features: int,
        size: Sequence[int],
        *,
        rank: int | None = None,
        implementation: Implementation = "auto",
        **numerics: Unpack[Numerics],
    ):
        check_positive(features=features)
        check_rank(len(size))
        self.rank = len(size) if rank is None else rank
        check_rank(self.rank)
        if self.rank < len(size):
            raise ValueError(f"rank={rank}; expected at least the {len(size)} axes of size={size}")
        self.features, self.size = features, tuple(size)
        grid = (*self.size[:-1], self.size[-1] // 2 + 1)
        key, types = numerics["rngs"].params(), types_of(numerics)
        self.weight = nnx.Param(normal(0.02)(key, (*grid, 2 * features), types["param_dtype"]))
        self.implementation, self.dtype = implementation, types["dtype"]

    def set_view(self, implementation: Implementation | None = None) -> None:
        self.implementation = implementation or self.implementation

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        if x.shape[-len(self.size) - 1 : -1] != self.size:
            raise ValueError(
                f"x has shape {x.shape}; this filter was built for maps of {self.size}"
            )
        weight = self.weight[...]
        x = x.astype(self.dtype or common(x, weight))
        return global_filter(x, weight, implementation=self.implementation)


class FourierMixer(nnx.Module):
    """One complex two-layer network for all frequencies, added to the map: ``[N, *spatial, C]``.

    Args:
      features: channels C.
      rank: 2 for images, 3 for videos.
      num_blocks: diagonal blocks of its matrices.
      expansion: hidden features in terms of those of a block.
      threshold: soft shrinkage, which makes spectra sparse.
      implementation: of the transform, as in `RealFFT`.

    Guibas et al., "Adaptive Fourier Neural Operators", ICLR 2022.
    """

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        num_blocks: int = 8,
        expansion: int = 1,
        threshold: float = 0.01,
        implementation: Implementation = "auto",
        **numerics: Unpack[Numerics],
    ):
        check_multiple("features", features, num_blocks=num_blocks)
        check_positive(expansion=expansion)
        check_rank(rank)
        width, rngs, types = features // num_blocks, numerics["rngs"], types_of(numerics)
        hidden = expansion * width
        draw = lambda *shape: nnx.Param(
            normal(0.02)(rngs.params(), (2, num_blocks, *shape), types["param_dtype"])
        )
        self.kernel1, self.bias1 = draw(width, hidden), draw(hidden)
        self.kernel2, self.bias2 = draw(hidden, width), draw(width)
        self.features, self.rank, self.threshold = features, rank, threshold
        self.implementation, self.dtype = implementation, types["dtype"]
        self.precision = numerics.get("precision")

    def set_view(self, implementation: Implementation | None = None) -> None:
        self.implementation = implementation or self.implementation

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        x = x.astype(self.dtype or common(x, self.kernel1[...]))
        return x + fourier_mixer(
            x,
            (self.kernel1[...], self.kernel2[...]),
            (self.bias1[...], self.bias2[...]),
            threshold=self.threshold,
            rank=self.rank,
            implementation=self.implementation,
            precision=self.precision,
        )


class SpectralConvolution(nnx.Module):
    """A matrix for each of the lowest frequencies: ``[N, *spatial, I] -> [N, *spatial, O]``.

    Args:
      in_features: channels I.
      out_features: channels O.
      modes: frequencies kept of each axis; of the last, those from 0 on. Their number tells whether
        it takes images or videos.
      use_bias: whether a number is added to each channel.
      implementation: of the transform, as in `RealFFT`.

    It takes maps of any size that has these frequencies, and means the same on all.
    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        modes: Sequence[int],
        *,
        use_bias: bool = False,
        implementation: Implementation = "auto",
        **numerics: Unpack[Numerics],
    ):
        check_positive(in_features=in_features, out_features=out_features)
        check_rank(len(modes))
        for mode in modes:
            check_positive(modes=mode)
        types, key = types_of(numerics), numerics["rngs"].params()
        shape = (*modes, 2, in_features, out_features)
        std = 1 / math.sqrt(3 * in_features * out_features)
        self.kernel = nnx.Param(normal(std)(key, shape, types["param_dtype"]))
        self.bias = (
            nnx.Param(zeros(None, (out_features,), types["param_dtype"])) if use_bias else None
        )
        self.in_features, self.modes = in_features, tuple(modes)
        self.implementation, self.dtype = implementation, types["dtype"]
        self.precision = numerics.get("precision")

    def set_view(self, implementation: Implementation | None = None) -> None:
        self.implementation = implementation or self.implementation

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, len(self.modes), self.in_features)
        kernel = self.kernel[...]
        x = x.astype(self.dtype or common(x, kernel))
        options = dict(implementation=self.implementation, precision=self.precision)
        y = spectral_convolution(x, kernel, **options)
        return y if self.bias is None else y + per_channel(self.bias[...], y).astype(y.dtype)


class FilterResidual(nnx.Module):
    """A filter of the spectrum beside the map: ``x + norm(filter(x))``, at first the identity.

    ``[N, H, W, C]`` for ``rank=2``, ``[N, T, H, W, C]`` for ``rank=3``.

    The normalisation's scale starts at 0, as in non-local blocks. How a filter stands between
    convolutions no paper says; this is ours.
    """

    def __init__(
        self, features: int, filter: nnx.Module, *, rank: int = 2, **numerics: Unpack[Numerics]
    ):
        self.filter, self.features, self.rank = filter, features, rank
        self.norm = BatchNorm(features, scale_init=zeros, **types_of(numerics))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        return x + self.norm(self.filter(x))


def gfnet(
    features: int, *, size: Sequence[int], rank: int = 2, **numerics: Unpack[Numerics]
) -> FilterResidual:
    """Build a block with a `GlobalFilter` of maps, or frames, of ``size``: ``[N, *spatial, C]``."""
    made = GlobalFilter(features, size, rank=rank, **numerics)
    return FilterResidual(features, made, rank=rank, **numerics)


def afno(
    features: int,
    *,
    rank: int = 2,
    num_blocks: int = 8,
    expansion: int = 1,
    threshold: float = 0.01,
    **numerics: Unpack[Numerics],
) -> FilterResidual:
    """Build a block with a `FourierMixer`: ``[N, *spatial, C]``."""
    options = dict(num_blocks=num_blocks, expansion=expansion, threshold=threshold)
    made = FourierMixer(features, rank=rank, **options, **numerics)
    return FilterResidual(features, made, rank=rank, **numerics)


def fno(
    features: int,
    *,
    rank: int = 2,
    modes: Sequence[int] | None = None,
    inner_features: int | None = None,
    **numerics: Unpack[Numerics],
) -> FilterResidual:
    """Build a block with a `SpectralConvolution` between two pointwise ones: ``[N, *spatial, C]``.

    ``modes`` are those kept of each axis; None: four rows and three columns (and two frames), which
    maps from 4 x 4 on have. ``inner_features`` is C // 4 unless given: the matrices of all
    frequencies are as large.
    """
    inner = inner_features or max(1, features // 4)
    modes = (2, 4, 3)[-rank:] if modes is None else tuple(modes)
    if len(modes) != rank:
        raise ValueError(f"modes={modes}; expected {rank}, one for each axis")
    operator = nnx.Sequential(
        conv(features, inner, rank=rank, **numerics),
        SpectralConvolution(inner, inner, modes, **numerics),
        conv(inner, features, rank=rank, **numerics),
    )
    return FilterResidual(features, operator, rank=rank, **numerics)
