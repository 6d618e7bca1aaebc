# SPDX-License-Identifier: Apache-2.0
"""Residual blocks: what those of a network have in common, the shape of each, and their module."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Unpack

import jax
import numpy as np
from flax import nnx

from spectral_flax.functional.shift import temporal_shift
from spectral_flax.layers.attention import SqueezeExcite
from spectral_flax.layers.conv import conv
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics

Convolution = Callable[..., nnx.Module]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual:
    """What the residual blocks of a network have in common.

    Attributes:
      bottleneck: blocks of three convolutions, the last four times as wide.
      groups: groups of the 3x3 convolutions of bottlenecks (ResNeXt).
      width_per_group: their features per group, in the first stage of a network of width 64.
      convolution: builds the convolutions of two paths, for which it takes ``ratio_in`` and
        ``ratio_out``.
      ratio: share of the global channels. The map is split by the first block of the network and
        joined by the first block of the last stage; 0 is the plain network.
      project_first: the first block of the network has a projection in its shortcut even where it
        keeps the shape, as in published FFC networks of basic blocks with ratio 0.
      se: squeeze and excitation in every block.
      drop_path: in training, the chance that an example skips the convolutions of the last block;
        that of the others falls in proportion to their place, to 0 for the first. Huang et al.,
        "Deep networks with stochastic depth", ECCV 2016.
      temporal_shift: of videos, one of so many channels comes from the next frame before the first
        convolution of a block, and one from the frame before; 0: none. Of a network with 23 blocks
        or more in a stage every second block does so (Lin et al., ICCV 2019).

    Raises:
      ValueError: the ratio or the chance is none.
    """

    bottleneck: bool = True
    groups: int = 1
    width_per_group: int = 64
    convolution: Convolution = conv
    ratio: float = 0.0
    project_first: bool = False
    se: bool = False
    drop_path: float = 0.0
    temporal_shift: int = 0

    def __post_init__(self):
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} lies outside [0, 1)")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} lies outside [0, 1]")

    @property
    def expansion(self) -> int:
        """How many times as wide as its first convolution a block's output is."""
        return 4 if self.bottleneck else 1


BOTTLENECKS = Residual()


class BlockShape(NamedTuple):
    """Features, ratios and geometry of one residual block."""

    in_features: int
    width: int
    out_features: int
    ratio_in: float = 0.0
    ratio_out: float = 0.0
    projection: bool = False
    strides: int = 1
    dilation: int = 1
    drop_path: float = 0.0
    temporal_shift: int = 0


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 (bottleneck), beside a shortcut.

    ``[N, *spatial, in_features] -> [N, *spatial', out_features]``. The first 3x3 convolution has
    the stride; the first convolution of all sees ``temporal_kernel`` frames. With a two-path
    convolution (FFC), ``ratio_in`` and ``ratio_out`` are the shares of the global path in the
    block's input and output; between its convolutions it is ``ratio_out``.
    """

    def __init__(
        self,
        shape: BlockShape,
        options: Residual,
        *,
        rank: int = 2,
        temporal_kernel: int = 1,
        **numerics: Unpack[Numerics],
    ):
        in_features, width, out_features, ratio_in, ratio_out = shape[:5]
        common = dict(rank=rank, **numerics)
        first = functools.partial(
            ConvNormAct, layer=_with_ratios(options.convolution, ratio_in, ratio_out), **common
        )
        rest = functools.partial(
            ConvNormAct, layer=_with_ratios(options.convolution, ratio_out, ratio_out), **common
        )
        strides = spatial_window(rank, shape.strides)
        strided = dict(strides=strides, dilation=spatial_window(rank, shape.dilation))
        point, square = spatial_window(rank, 1), spatial_window(rank, 3)
        if options.bottleneck:
            self.conv1 = first(in_features, width, spatial_window(rank, 1, temporal_kernel))
            self.conv2 = rest(width, width, square, groups=options.groups, **strided)
            self.conv3 = rest(width, out_features, point, activation=None)
        else:
            self.conv1 = first(
                in_features, width, spatial_window(rank, 3, temporal_kernel), **strided
            )
            self.conv2 = rest(width, out_features, square, activation=None)
            self.conv3 = None
        self.se = SqueezeExcite(out_features, **numerics) if options.se else None
        axes = tuple(range(1, rank + 2))  # an example is dropped whole
        self.temporal_shift = shape.temporal_shift
        rate, rngs = shape.drop_path, numerics["rngs"]
        self.drop_path = nnx.Dropout(rate, broadcast_dims=axes, rngs=rngs) if rate else None
        self.shortcut = (
            first(in_features, out_features, point, strides=strides, activation=None)
            if shape.projection or shape.strides != 1 or in_features != out_features
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        shifted = temporal_shift(x, self.temporal_shift) if self.temporal_shift else x
        y = self.conv2(self.conv1(shifted))
        if self.conv3 is not None:
            y = self.conv3(y)
        if self.se is not None:
            y = self.se(y)
        if self.drop_path is not None:
            y = self.drop_path(y)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def block_shapes(
    depths: Sequence[int],
    width: int,
    residual: Residual,
    dilated: Sequence[int],
    unstrided: Sequence[int],
) -> Iterator[BlockShape]:
    """Yield the shape of each residual block of a network, one stage after the other."""
    features = width
    rates = iter(np.linspace(0, residual.drop_path, sum(depths)).tolist())
    ratio_in = 0.0
    dilation = 1
    shifts_every = 2 if max(depths) >= 23 else 1
    for stage, depth in enumerate(depths, start=1):
        planes = width * 2 ** (stage - 1)
        inner = planes
        if residual.bottleneck:
            inner = planes * residual.width_per_group // 64 * residual.groups
        out_features = planes * residual.expansion
        ratio_out = residual.ratio if stage < len(depths) else 0.0
        strides = 1 if stage == 1 or stage in unstrided else 2
        first_dilation = dilation  # the first block of a dilated stage keeps the one before
        if stage in dilated:
            dilation *= strides
            strides = 1
        for i in range(depth):
            yield BlockShape(
                features,
                inner,
                out_features,
                ratio_in,
                ratio_out,
                projection=ratio_in != ratio_out
                or (residual.project_first and stage == 1 and i == 0),
                strides=strides if i == 0 else 1,
                dilation=first_dilation if i == 0 else dilation,
                drop_path=next(rates),
                temporal_shift=0 if i % shifts_every else residual.temporal_shift,
            )
            features = out_features
            ratio_in = ratio_out


def spatial_window(rank: int, size: int, temporal: int = 1) -> tuple[int, ...]:
    """Return ``size`` for the axes of space and, for video, ``temporal`` for that of time."""
    return (temporal,) * (rank - 2) + (size, size)


def _with_ratios(convolution: Convolution, ratio_in: float, ratio_out: float) -> Convolution:
    if ratio_in == ratio_out == 0:
        return conv
    return functools.partial(convolution, ratio_in=ratio_in, ratio_out=ratio_out)
