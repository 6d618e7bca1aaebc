# SPDX-License-Identifier: Apache-2.0
"""The residual network of every image and video model.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride on the 3x3
convolution; Xie et al., "Aggregated Residual Transformations", CVPR 2017 (ResNeXt).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Unpack

import jax
from flax import nnx

from spectral_flax.arrays import as_floating, wide
from spectral_flax.layers.conv import linear
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.models.residual import (
    BOTTLENECKS,
    Convolution,
    Residual,
    ResidualBlock,
    block_shapes,
    spatial_window,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution of a network, and the 3x3 maximum pooling of stride 2 behind it.

    Attributes:
      in_features: channels of the input.
      kernel: height and width of the convolution.
      stride: along height and width.
      temporal_kernel: frames that the convolution sees (video).
      pool: whether it is followed by the pooling.
      pool_padding: padding of the pooling.
    """

    in_features: int = 3
    kernel: int = 7
    stride: int = 2
    temporal_kernel: int = 1
    pool: bool = True
    pool_padding: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """Pooling, dropout and the linear layer at the end of a network.

    Attributes:
      num_classes: None leaves the linear layer out: the result is the pooled features.
      dropout: rate of dropout before the linear layer.
      pool_size: None averages the whole last map. A number averages windows of that height and
        width (and all frames) at every position; the linear layer's results are averaged.

    Raises:
      ValueError: no such number of classes, or rate.
    """

    num_classes: int | None = 1000
    dropout: float = 0.0
    pool_size: int | None = None

    def __post_init__(self):
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(
                f"num_classes={self.num_classes}; expected at least 1, or None for no head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"dropout={self.dropout}; expected a rate from 0 up to, not including, 1"
            )


class ResNet(Rematerialisable):
    """Residual network: ``[N, *spatial, in_features] -> [N, num_classes]``.

    ``stage1``, ``stage2``, … are lists of residual blocks in which each inserted block follows the
    residual block that it is placed after.

    Args:
      depths: residual blocks of each stage.
      residual: options of the residual blocks.
      stem: the first convolution.
      head: pooling and the linear layer.
      width: features of the first stage's narrow convolutions; each stage doubles it.
      rank: 2 for images, 3 for video.
      temporal_kernels: for video, frames that the first convolution of each residual block sees, by
        stage and block.
      temporal_pool_stride: for video, every so many frames become one (their maximum) after
        stage 1.
      block: ``block(features, rank=…, rngs=…)`` builds a module that keeps the shape.
      blocks_at: residual blocks that one follows (stage → zero-based ones).
      input_size: (T,) H, W of the input that the blocks are built for: each is then also given
        ``size``, that of its map. None: they are not.
      dilated: stages (3, 4) whose stride is replaced by dilation.
      unstrided: stages whose stride is left out, without dilation.

    Raises:
      ValueError: an option names a stage or block that does not exist, or has no such value.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        residual: Residual = BOTTLENECKS,
        stem: Stem = Stem(),
        head: Head = Head(),
        width: int = 64,
        rank: int = 2,
        temporal_kernels: Sequence[Sequence[int]] | None = None,
        temporal_pool_stride: int = 1,
        block: Convolution | None = None,
        blocks_at: Mapping[int, Sequence[int]] | None = None,
        input_size: Sequence[int] | None = None,
        dilated: Sequence[int] = (),
        unstrided: Sequence[int] = (),
        **numerics: Unpack[Numerics],
    ):
        if not depths or min(depths) < 1:
            raise ValueError(f"depths={tuple(depths)}; expected at least one block in each stage")
        blocks_at = _check_blocks_at(blocks_at or {}, depths, block)
        self.rank = rank
        self.depths = tuple(depths)
        self.dilated = tuple(dilated)
        self.unstrided = tuple(unstrided)
        self.temporal_pool_stride = temporal_pool_stride
        self.stem_options = stem
        self.head_pool_size = head.pool_size
        sizes = self.map_sizes(input_size) if blocks_at and input_size is not None else None
        self.stem = ConvNormAct(
            stem.in_features,
            width,
            spatial_window(rank, stem.kernel, stem.temporal_kernel),
            strides=spatial_window(rank, stem.stride),
            rank=rank,
            **numerics,
        )
        shapes = list(block_shapes(depths, width, residual, dilated, unstrided))
        for stage, depth in enumerate(depths, start=1):
            blocks = []
            for i in range(depth):
                shape = shapes.pop(0)
                kernel = temporal_kernels[stage - 1][i] if temporal_kernels else 1
                options = dict(rank=rank, temporal_kernel=kernel)
                blocks.append(ResidualBlock(shape, residual, **options, **numerics))
                if i in blocks_at.get(stage, ()):
                    size = {} if sizes is None else {"size": sizes[stage - 1]}
                    blocks.append(block(shape.out_features, rank=rank, **size, **numerics))
            setattr(self, f"stage{stage}", nnx.List(blocks))
        features = self.num_features = shape.out_features
        self.dropout = nnx.Dropout(head.dropout, rngs=numerics["rngs"]) if head.dropout else None
        classes = head.num_classes
        self.head = None if classes is None else linear(features, classes, **numerics)

    @property
    def stages(self) -> tuple[nnx.List, ...]:
        """The stages: residual blocks and, each behind its own, inserted blocks."""
        return tuple(getattr(self, f"stage{n}") for n in range(1, len(self.depths) + 1))

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the feature maps by name: ``stem``, ``stage1`` and so on."""
        x = as_floating(x=x)
        in_features = self.stem_options.in_features
        if x.ndim != self.rank + 2 or x.shape[-1] != in_features:
            axes = ["N", "T", "H", "W"] if self.rank == 3 else ["N", "H", "W"]
            expected = ", ".join([*axes, str(in_features)])
            raise ValueError(f"x has shape {x.shape}; expected [{expected}]")
        if 0 in x.shape[1:]:
            raise ValueError(f"x has shape {x.shape}; expected no empty spatial axis")
        self.map_sizes(x.shape[1:-1])
        x = self.stem(x)
        maps = {"stem": x}
        if self.stem_options.pool:
            padding = [(p, p) for p in spatial_window(self.rank, self.stem_options.pool_padding, 0)]
            x = nnx.max_pool(x, spatial_window(self.rank, 3), spatial_window(self.rank, 2), padding)
        for stage, blocks in enumerate(self.stages, start=1):
            for block in blocks:
                x = self._run(block, x)
            maps[f"stage{stage}"] = x
            if stage == 1 and self.temporal_pool_stride > 1:
                window = spatial_window(self.rank, 1, self.temporal_pool_stride)
                x = nnx.max_pool(x, window, window)
        return maps

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.features(x)[f"stage{len(self.depths)}"]
        if self.head_pool_size is None:
            x = x.mean(tuple(range(1, x.ndim - 1)))
        else:
            x = _window_means(x, self.head_pool_size)
        if self.dropout is not None:
            x = self.dropout(x)
        if self.head is not None:
            x = self.head(x)
        return x.mean(tuple(range(1, x.ndim - 1)))

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
        size = [-(-n // stem.stride) for n in (height, width)]
        if stem.pool:
            size = [(n + 2 * stem.pool_padding - 3) // 2 + 1 for n in size]
        sizes = []
        for stage in range(1, len(self.depths) + 1):
            if stage > 1 and stage not in (*self.dilated, *self.unstrided):
                size = [-(-n // 2) for n in size]
            if stage == 2:
                frames = [n // self.temporal_pool_stride for n in frames]
            if min(*frames, *size) < 1:
                raise ValueError(
                    f"the input of size {tuple(input_size)} is too small: nothing is left of it in "
                    f"stage {stage}"
                )
            sizes.append((*frames, *size))
        return sizes


def _window_means(x: jax.Array, window: int) -> jax.Array:
    """Average all frames and windows of space: ``[N, (T,) H, W, C] -> [N, H', W', C]``.

    A map that is smaller than the window is one window.
    """
    y = x.astype(wide(x.dtype))
    y = y.mean(tuple(range(1, x.ndim - 3)))
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer
        return nnx.avg_pool(y, tuple(min(window, n) for n in y.shape[1:3])).astype(x.dtype)


def _check_blocks_at(blocks_at, depths, block) -> dict[int, tuple[int, ...]]:
    if blocks_at and block is None:
        raise ValueError(f"blocks_at={blocks_at} but no block to insert was given")
    for stage, indices in blocks_at.items():
        if not 1 <= stage <= len(depths):
            raise ValueError(f"blocks_at names stage {stage}; expected 1 to {len(depths)}")
        for i in indices:
            if not 0 <= i < depths[stage - 1]:
                raise ValueError(
                    f"blocks_at places a block after number {i} of stage {stage}, "
                    f"which has {depths[stage - 1]} (from 0)"
                )
    return {stage: tuple(indices) for stage, indices in blocks_at.items()}
