# SPDX-License-Identifier: Apache-2.0
"""Residual blocks: what those of a network have in common, the shape of each, and their module."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.functional.shift import temporal_shift
from spectral_flax.layers.activations import relu
from spectral_flax.layers.attention import SqueezeExcite
from spectral_flax.layers.norm import ConvNormAct, NormActConv
from spectral_flax.layers.numerics import Numerics

Map = jax.Array | tuple[jax.Array, jax.Array]
"""A map, or that of an octave network: its parts of high and of low frequency."""


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
    temporal_kernel: int = 1
    temporal_stride: int = 1
    deformable: bool = False


Unit = Callable[..., nnx.Module]
"""Builds a convolution with normalisation and activation; takes the arguments of `ConvNormAct`."""


def plain(shape: BlockShape, ratio_in: float, ratio_out: float) -> Unit:
    """Return the unit of a plain network."""
    return ConvNormAct


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual:
    """What the residual blocks of a network have in common.

    Attributes:
      bottleneck: blocks of three convolutions, the last four times as wide.
      groups: groups of the 3x3 convolutions of bottlenecks (ResNeXt).
      width_per_group: their features per group, in the first stage of a network of width 64.
      features_per_group: their features per group in every stage, in place of both; 0: not so.
      unit: given the block's shape and the shares of a second path in input and output, returns
        what builds a convolution with its normalisation and activation (see `Unit`).
      module: builds the block, as `ResidualBlock` does; None: that is it.
      within: given features, builds a module that stands before a block's last convolution.
      activation: behind each normalisation but the last, and behind the sum.
      ratio: share of the channels of the second path: global ones (FFC), or of low frequency
        (octave convolution). The map is split by the first block of the network and joined by the
        first block of the last stage; 0 is the plain network.
      project_first: the first block of the network has a projection in its shortcut even where it
        keeps the shape, as in published FFC networks of basic blocks with ratio 0.
      preactivation: units normalise and rectify before they convolve, and nothing follows the sum.
      spatiotemporal: it is the 3x3 convolutions that see several frames, not the first ones.
      epsilon: of all normalisations.
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
    features_per_group: int = 0
    unit: Callable[[BlockShape, float, float], Unit] = plain
    module: Callable[..., nnx.Module] | None = None
    within: Callable[..., nnx.Module] | None = None
    activation: Callable[[jax.Array], jax.Array] = relu
    ratio: float = 0.0
    project_first: bool = False
    preactivation: bool = False
    spatiotemporal: bool = False
    epsilon: float = 1e-5
    se: bool = False
    drop_path: float = 0.0
    temporal_shift: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path} lies outside [0, 1)")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio} lies outside [0, 1]")

    @property
    def expansion(self) -> int:
        """How many times as wide as its first convolution a block's output is."""
        return 4 if self.bottleneck else 1


BOTTLENECKS = Residual()


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 (bottleneck), beside a shortcut.

    ``[N, *spatial, in_features] -> [N, *spatial', out_features]``. The first 3x3 convolution has
    the stride; the first convolution of all sees ``temporal_kernel`` frames, or every 3x3 one does
    (``spatiotemporal``). With two paths, ``ratio_in`` and ``ratio_out`` are the shares of the
    second in the block's input and output; between its convolutions it is ``ratio_out``.
    """

    def __init__(
        self,
        shape: BlockShape,
        options: Residual,
        *,
        rank: int = 2,
        **numerics: Unpack[Numerics],
    ):
        in_features, width, out_features, ratio_in, ratio_out = shape[:5]
        before = options.preactivation
        unit = (lambda *_: NormActConv) if before else options.unit
        common = dict(rank=rank, epsilon=options.epsilon, **numerics)
        if not before:
            common["activation"] = options.activation
        first = functools.partial(unit(shape, ratio_in, ratio_out), **common)
        rest = functools.partial(unit(shape, ratio_out, ratio_out), **common)
        strides = spatial_window(rank, shape.strides, shape.temporal_stride)
        strided = dict(strides=strides, kernel_dilation=spatial_window(rank, shape.dilation))
        # Frames that the first convolution sees, and those of windows.
        frames, window_frames = shape.temporal_kernel, 1
        if options.spatiotemporal:
            frames, window_frames = (1 if options.bottleneck else frames), frames
        point, square = spatial_window(rank, 1), spatial_window(rank, 3, window_frames)
        last = {} if before else dict(activation=None)
        if options.bottleneck:
            self.conv1 = first(in_features, width, spatial_window(rank, 1, frames))
            per_group = options.features_per_group
            groups = width // per_group if per_group else options.groups
            self.conv2 = rest(width, width, square, feature_group_count=groups, **strided)
            self.conv3 = rest(width, out_features, point, **last)
        else:
            self.conv1 = first(in_features, width, spatial_window(rank, 3, frames), **strided)
            self.conv2 = rest(width, out_features, square, **last)
            self.conv3 = None
        within = options.within
        self.within = None if within is None else within(width, rank=rank, **numerics)
        self.se = SqueezeExcite(out_features, **numerics) if options.se else None
        axes = tuple(range(1, rank + 2))  # an example is dropped whole
        self.temporal_shift = shape.temporal_shift
        rate, rngs = shape.drop_path, numerics["rngs"]
        self.drop_path = nnx.Dropout(rate, broadcast_dims=axes, rngs=rngs) if rate else None
        self.shortcut = (
            first(in_features, out_features, point, strides=strides, **last)
            if has_projection(shape)
            else None
        )
        self.activation = None if before else options.activation

    def __call__(self, x: Map) -> Map:
        shifted = temporal_shift(x, self.temporal_shift) if self.temporal_shift else x
        y = self.conv1(shifted)
        if self.within is not None and self.conv3 is None:
            y = self.within(y)
        y = self.conv2(y)
        if self.conv3 is not None:
            y = y if self.within is None else self.within(y)
            y = self.conv3(y)
        if self.se is not None:
            y = self.se(y)
        if self.drop_path is not None:
            y = self.drop_path(y)
        x = x if self.shortcut is None else self.shortcut(x)
        y = jax.tree.map(jnp.add, y, x)
        return y if self.activation is None else jax.tree.map(self.activation, y)


def has_projection(shape: BlockShape) -> bool:
    """Return whether the shortcut of a block has a convolution."""
    strided = shape.strides != 1 or shape.temporal_stride != 1
    return shape.projection or strided or shape.in_features != shape.out_features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the residual blocks of a network have strides, dilation and kernels of time.

    Attributes:
      dilated: stages (3, 4) whose stride is replaced by dilation.
      dilate_first: the first block of a dilated stage is dilated as the others are, where it
        otherwise has the dilation of the stage before.
      unstrided: stages whose stride is left out, without dilation.
      temporal_kernels: for video, the frames that a residual block sees, by stage and block.
      temporal_strides: for video, the stride in time of each stage's first block.
      deformable: residual blocks whose 3x3 convolutions are deformable (stage → zero-based ones).
    """

    dilated: Sequence[int] = ()
    dilate_first: bool = False
    unstrided: Sequence[int] = ()
    temporal_kernels: Sequence[Sequence[int]] | None = None
    temporal_strides: Sequence[int] | None = None
    deformable: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)


def block_shapes(
    depths: Sequence[int],
    in_features: int,
    width: int,
    residual: Residual,
    geometry: Geometry,
) -> Iterator[BlockShape]:
    """Yield the shape of each residual block of a network, one stage after the other."""
    features = in_features
    kernels, time = geometry.temporal_kernels, geometry.temporal_strides
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
        strides = 1 if stage == 1 or stage in geometry.unstrided else 2
        first_dilation = dilation  # the first block of a dilated stage keeps the one before
        if stage in geometry.dilated:
            dilation *= strides
            strides = 1
            first_dilation = dilation if geometry.dilate_first else first_dilation
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
                temporal_kernel=kernels[stage - 1][i] if kernels else 1,
                temporal_stride=time[stage - 1] if time and i == 0 else 1,
                deformable=i in geometry.deformable.get(stage, ()),
            )
            features = out_features
            ratio_in = ratio_out


def spatial_window(rank: int, size: int, temporal: int = 1) -> tuple[int, ...]:
    """Return ``size`` for the axes of space and, for video, ``temporal`` for that of time."""
    return (temporal,) * (rank - 2) + (size, size)
