# SPDX-License-Identifier: Apache-2.0
"""The residual network of every image and video model.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride on the 3x3
convolution; Xie et al., "Aggregated Residual Transformations", CVPR 2017 (ResNeXt).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

import jax
from flax import nnx

from spectral_flax.functional.pooling import max_pool
from spectral_flax.layers.activations import relu
from spectral_flax.layers.conv import conv
from spectral_flax.layers.norm import BatchNorm, ConvNormAct
from spectral_flax.layers.numerics import Numerics, types_of
from spectral_flax.layers.places import check_places
from spectral_flax.models.head import Classifier, Head
from spectral_flax.models.residual import (
    BOTTLENECKS,
    Geometry,
    Map,
    Residual,
    ResidualBlock,
    block_shapes,
    spatial_window,
)

MEAN, STRIDED = Head(), Geometry()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution of a network, and the 3x3 maximum pooling of stride 2 behind it.

    Attributes:
      in_features: channels of the input.
      features: channels of the convolution; None: the network's width.
      kernel: height and width of the convolution.
      stride: along height and width.
      temporal_kernel: frames that the convolution sees (video).
      temporal_stride: its stride in time (video).
      layer: builds the convolution; a named function, since the model keeps it.
      pool: whether it is followed by the pooling.
      pool_padding: padding of the pooling.
      pool_ceil: the pooling also has a last window that is not full.
    """

    in_features: int = 3
    features: int | None = None
    kernel: int = 7
    stride: int = 2
    temporal_kernel: int = 1
    temporal_stride: int = 1
    layer: Callable[..., nnx.Module] = conv
    pool: bool = True
    pool_padding: int = 1
    pool_ceil: bool = False


class ResNet(Classifier):
    """Residual network: ``[N, *spatial, in_features] -> [N, num_classes]``.

    ``stage1``, ``stage2``, … are lists of residual blocks in which each inserted block follows the
    residual block that it is placed after. Of an octave network ``features`` lists the parts of
    high frequency, and of low as ``stage1_low`` and so on.

    Args:
      depths: residual blocks of each stage.
      residual: options of the residual blocks.
      stem: the first convolution.
      head: pooling and the linear layer.
      width: features of the first stage's narrow convolutions; each stage doubles it.
      rank: 2 for images, 3 for video.
      geometry: strides, dilation and kernels of time of the residual blocks.
      temporal_pool_stride: for video, every so many frames become one (their maximum) after
        stage 1.
      block: ``block(features, rank=…, rngs=…)`` builds a module that keeps the shape.
      blocks_at: residual blocks that one follows (stage → zero-based ones).
      input_size: (T,) H, W of the input that the blocks are built for: each is then also given
        ``size``, that of its map. None: they are not.

    Raises:
      ValueError: an option names a stage or block that does not exist, or has no such value.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        residual: Residual = BOTTLENECKS,
        stem: Stem = Stem(),
        head: Head = MEAN,
        width: int = 64,
        rank: int = 2,
        geometry: Geometry = STRIDED,
        temporal_pool_stride: int = 1,
        block: Callable[..., nnx.Module] | None = None,
        blocks_at: Mapping[int, Sequence[int]] | None = None,
        input_size: Sequence[int] | None = None,
        **numerics: Unpack[Numerics],
    ):
        if not depths or min(depths) < 1:
            raise ValueError(f"depths={tuple(depths)}; expected at least one block in each stage")
        if blocks_at and block is None:
            raise ValueError(f"blocks_at={blocks_at} but no block to insert was given")
        blocks_at = check_places("blocks_at", dict(blocks_at or {}), depths)
        self.rank = rank
        self.depths = tuple(depths)
        self.strideless = (*geometry.dilated, *geometry.unstrided)
        self.temporal_strides = tuple(geometry.temporal_strides or (1,) * len(depths))
        self.temporal_pool_stride = temporal_pool_stride
        self.stem_options = stem
        sizes = self.map_sizes(input_size) if blocks_at and input_size is not None else None
        stem_features = width if stem.features is None else stem.features
        self.stem = ConvNormAct(
            stem.in_features,
            stem_features,
            spatial_window(rank, stem.kernel, stem.temporal_kernel),
            layer=stem.layer,
            strides=spatial_window(rank, stem.stride, stem.temporal_stride),
            rank=rank,
            activation=residual.activation,
            epsilon=residual.epsilon,
            **numerics,
        )
        module = residual.module or ResidualBlock
        shapes = list(block_shapes(depths, stem_features, width, residual, geometry))
        for stage, depth in enumerate(depths, start=1):
            blocks = []
            for i in range(depth):
                shape = shapes.pop(0)
                blocks.append(module(shape, residual, rank=rank, **numerics))
                if i in blocks_at.get(stage, ()):
                    size = {} if sizes is None else {"size": sizes[stage - 1]}
                    blocks.append(block(shape.out_features, rank=rank, **size, **numerics))
            setattr(self, f"stage{stage}", nnx.List(blocks))
        norm = dict(epsilon=residual.epsilon, **types_of(numerics))
        self.norm = BatchNorm(shape.out_features, **norm) if residual.preactivation else None
        last_map = f"stage{len(depths)}" if self.norm is None else "norm"
        self._make_head(last_map, shape.out_features, head, **numerics)

    @property
    def stages(self) -> tuple[nnx.List, ...]:
        """The stages: residual blocks and, each behind its own, inserted blocks."""
        return tuple(getattr(self, f"stage{n}") for n in range(1, len(self.depths) + 1))

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the feature maps by name: ``stem``, ``stage1`` and so on."""
        x = self._checked(x, self.stem_options.in_features)
        self.map_sizes(x.shape[1:-1])
        x = self.stem(x)
        maps = {"stem": x}
        if self.stem_options.pool:
            x = self._pool_stem(x)
        for stage, blocks in enumerate(self.stages, start=1):
            for block in blocks:
                x = self._run(block, x)
            maps |= _named(f"stage{stage}", x)
            if stage == 1 and self.temporal_pool_stride > 1:
                x = jax.tree.map(self._pool_frames, x)
        if self.norm is not None:
            maps["norm"] = relu(self.norm(x))
        return maps

    def _pool_stem(self, x: jax.Array) -> jax.Array:
        margin, ceil = self.stem_options.pool_padding, self.stem_options.pool_ceil
        beyond = [(n + 2 * margin - 3) % 2 if ceil else 0 for n in x.shape[-3:-1]]
        padding = [(0, 0)] * (self.rank - 2) + [(margin, margin + more) for more in beyond]
        return max_pool(x, spatial_window(self.rank, 3), spatial_window(self.rank, 2), padding)

    def _pool_frames(self, x: jax.Array) -> jax.Array:
        window = spatial_window(self.rank, 1, self.temporal_pool_stride)
        return max_pool(x, window, window)

    def map_sizes(self, input_size: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the size of each stage's map, (T,) H, W, for an input of that size.

        Raises:
          ValueError: the input has too few axes, frames or pixels.
        """
        if len(input_size) != self.rank:
            axes = "T, H, W" if self.rank == 3 else "H, W"
            raise ValueError(f"input_size={tuple(input_size)}; expected {axes}")
        *frames, height, width = input_size
        stem = self.stem_options
        frames = [-(-n // stem.temporal_stride) for n in frames]
        size = [-(-n // stem.stride) for n in (height, width)]
        if stem.pool:
            less = 2 if stem.pool_ceil else 3
            size = [(n + 2 * stem.pool_padding - less) // 2 + 1 for n in size]
        sizes = []
        for stage in range(1, len(self.depths) + 1):
            if stage > 1 and stage not in self.strideless:
                size = [-(-n // 2) for n in size]
            frames = [-(-n // self.temporal_strides[stage - 1]) for n in frames]
            if stage == 2:
                frames = [n // self.temporal_pool_stride for n in frames]
            if min(*frames, *size) < 1:
                raise ValueError(
                    f"the input of size {tuple(input_size)} is too small: nothing is left of it in "
                    f"stage {stage}"
                )
            sizes.append((*frames, *size))
        return sizes


def _named(name: str, x: Map) -> dict[str, jax.Array]:
    """Return a map by its name, and its part of low frequency, if there is one, by another."""
    if not isinstance(x, tuple | list):
        return {name: x}
    high, low = x
    return {f"{name}_low": low, name: high}
