# SPDX-License-Identifier: Apache-2.0
"""The residual network of every image and video model.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride on the 3x3
convolution; Xie et al., "Aggregated Residual Transformations", CVPR 2017 (ResNeXt).
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import as_floating, wide
from spectral_flax.layers.attention import SqueezeExcite
from spectral_flax.layers.conv import conv, linear
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.remat import Rematerialisable

Convolution = Callable[..., nnx.Module]


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 (bottleneck), beside a shortcut.

    ``[N, *spatial, in_features] -> [N, *spatial', out_features]``. The first 3x3 convolution
    carries the stride; the first convolution of all also looks ``temporal`` frames wide. With a
    two-path convolution (FFC), ``ratio_in`` and ``ratio_out`` are the shares of the global path
    in the block's input and output; inside it is already ``ratio_out``.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int,
        *,
        bottleneck: bool = True,
        convolution: Convolution = conv,
        ratio_in: float = 0.0,
        ratio_out: float = 0.0,
        projection: bool = False,
        rank: int = 2,
        temporal: int = 1,
        strides: int = 1,
        dilation: int = 1,
        groups: int = 1,
        se: bool = False,
        rngs: nnx.Rngs,
        **numerics,
    ):
        first = dict(layer=_with_ratios(convolution, ratio_in, ratio_out), rank=rank, rngs=rngs)
        rest = dict(layer=_with_ratios(convolution, ratio_out, ratio_out), rank=rank, rngs=rngs)
        first, rest, last = first | numerics, rest | numerics, dict(activation=None)
        strided = dict(strides=_window(rank, strides), dilation=_window(rank, dilation))
        point, square = _window(rank, 1), _window(rank, 3)
        if bottleneck:
            kernel = _window(rank, 1, temporal)
            self.conv1 = ConvNormAct(in_features, width, kernel, **first)
            self.conv2 = ConvNormAct(width, width, square, groups=groups, **strided, **rest)
            self.conv3 = ConvNormAct(width, out_features, point, **rest, **last)
        else:
            kernel = _window(rank, 3, temporal)
            self.conv1 = ConvNormAct(in_features, width, kernel, **strided, **first)
            self.conv2 = ConvNormAct(width, out_features, square, **rest, **last)
            self.conv3 = None
        self.se = SqueezeExcite(out_features, rngs=rngs, **numerics) if se else None
        stride = dict(strides=strided["strides"])
        self.shortcut = (
            ConvNormAct(in_features, out_features, point, **stride, **first, **last)
            if projection or strides != 1 or in_features != out_features
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv2(self.conv1(x))
        if self.conv3 is not None:
            y = self.conv3(y)
        if self.se is not None:
            y = self.se(y)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(Rematerialisable):
    """Residual network: ``[N, *spatial, in_features] -> [N, num_classes]``.

    Args:
      depths: residual blocks of each stage.
      bottleneck: blocks of three convolutions, four times as wide at the end.
      groups: of the 3x3 convolutions of bottlenecks (ResNeXt).
      width_per_group: of the same.
      convolution: that of all blocks.
      ratio: share of its global channels. With a ratio, the map is split from the first block on
        and joined by the first block of the last stage; ``ratio=0`` is the plain network.
      project_first: the first block of all has a projection in its shortcut even where it keeps the
        shape, as in published FFC networks of basic blocks with ratio 0.
      se: squeeze and excitation in every block.
      block: ``block(features, rank=…, rngs=…)`` builds a module that keeps the shape.
      blocks_after: one stands after each residual block named here (stage → zero-based ones).
      input_size: (T,) H, W of the input that the blocks are built for: each is then also given
        ``size``, that of its map. None: they are not.
      dilated: stages (3, 4) whose stride is replaced by dilation.
      unstrided: stages whose stride is left out, without dilation.
      stem: "imagenet" (7x7 stride 2, pooling) or "small" (3x3 stride 1, for small images).
      width: features of the first stage's narrow convolutions; each stage doubles it.
      stem_margin: padding of the pooling after the stem.
      rank: 2 for images, 3 for video.
      temporal: for video, frames that the first convolution of each block sees, by stage and block.
      stem_frames: for video, frames that the stem's convolution sees.
      frame_pooling: for video, every so many frames become one (their maximum) after stage 1.
      head_window: None averages the whole last map. A number averages windows of that height and
        width (and all frames) at every position; the head's results are averaged.
      dropout: rate, between average and head.
      num_classes: None leaves the head out: the result is the pooled features.

    Raises:
      ValueError: an option names a stage or block that does not exist, or has no such value.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        bottleneck: bool = True,
        groups: int = 1,
        width_per_group: int = 64,
        convolution: Convolution = conv,
        ratio: float = 0.0,
        project_first: bool = False,
        se: bool = False,
        block: Convolution | None = None,
        blocks_after: Mapping[int, Sequence[int]] | None = None,
        input_size: Sequence[int] | None = None,
        dilated: Sequence[int] = (),
        unstrided: Sequence[int] = (),
        stem: str = "imagenet",
        stem_margin: int = 1,
        width: int = 64,
        rank: int = 2,
        temporal: Sequence[Sequence[int]] | None = None,
        stem_frames: int = 1,
        frame_pooling: int = 1,
        head_window: int | None = None,
        dropout: float = 0.0,
        in_features: int = 3,
        num_classes: int | None = 1000,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio={ratio} lies outside [0, 1]")
        if stem not in ("imagenet", "small"):
            raise ValueError(f"stem={stem!r}; expected 'imagenet' or 'small'")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes={num_classes}; expected at least 1, or None for no head")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}; expected a rate from 0 up to, not including, 1")
        if not depths or min(depths) < 1:
            raise ValueError(f"depths={tuple(depths)}; expected at least one block in each stage")
        places = _check_places(blocks_after or {}, depths, block)
        numerics = dict(dtype=dtype, param_dtype=param_dtype, precision=precision)
        self.rank, self.in_features = rank, in_features
        self.pooled, self.stem_margin = stem == "imagenet", stem_margin
        self.frame_pooling, self.head_window = frame_pooling, head_window
        self.depths = tuple(depths)
        self.dilated, self.unstrided = tuple(dilated), tuple(unstrided)
        sizes = self.map_sizes(input_size) if places and input_size is not None else None
        kernel, stride = (7, 2) if self.pooled else (3, 1)
        self.stem = ConvNormAct(
            in_features,
            width,
            _window(rank, kernel, stem_frames),
            strides=_window(rank, stride),
            rank=rank,
            rngs=rngs,
            **numerics,
        )
        features, dilation, ratio_in = width, 1, 0.0
        self.inserted = nnx.Dict()
        for stage, depth in enumerate(depths, start=1):
            planes = width * 2 ** (stage - 1)
            inner = planes * width_per_group // 64 * groups if bottleneck else planes
            out_features = planes * (4 if bottleneck else 1)
            ratio_out = ratio if stage < len(depths) else 0.0
            stride = 1 if stage == 1 or stage in unstrided else 2
            blocks = []
            for i in range(depth):
                first_dilation = dilation  # the first block of a dilated stage keeps the one before
                if i == 0 and stage in dilated:
                    dilation, stride = dilation * stride, 1
                blocks.append(
                    ResidualBlock(
                        features,
                        inner,
                        out_features,
                        bottleneck=bottleneck,
                        convolution=convolution,
                        ratio_in=ratio_in,
                        ratio_out=ratio_out,
                        projection=ratio_in != ratio_out
                        or (project_first and stage == 1 and i == 0),
                        rank=rank,
                        temporal=temporal[stage - 1][i] if temporal else 1,
                        strides=stride if i == 0 else 1,
                        dilation=first_dilation if i == 0 else dilation,
                        groups=groups if bottleneck else 1,
                        se=se,
                        rngs=rngs,
                        **numerics,
                    )
                )
                features, ratio_in = out_features, ratio_out
                if i in places.get(stage, ()):
                    size = {} if sizes is None else {"size": sizes[stage - 1]}
                    inserted = block(features, rank=rank, rngs=rngs, **size, **numerics)
                    self.inserted[f"stage{stage}_{i}"] = inserted
            setattr(self, f"stage{stage}", nnx.List(blocks))
        self.num_features = features
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        head = functools.partial(linear, features, rngs=rngs, **numerics)
        self.head = None if num_classes is None else head(num_classes)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the feature maps by name: ``stem``, ``stage1`` and so on."""
        x = as_floating(x=x)
        if x.ndim != self.rank + 2 or x.shape[-1] != self.in_features:
            axes = ["N", "T", "H", "W"] if self.rank == 3 else ["N", "H", "W"]
            expected = ", ".join([*axes, str(self.in_features)])
            raise ValueError(f"x has shape {x.shape}; expected [{expected}]")
        if 0 in x.shape[1:]:
            raise ValueError(f"x has shape {x.shape}; expected no empty spatial axis")
        self.map_sizes(x.shape[1:-1])
        x = self.stem(x)
        maps = {"stem": x}
        if self.pooled:
            margins = [(p, p) for p in _window(self.rank, self.stem_margin, 0)]
            x = nnx.max_pool(x, _window(self.rank, 3), _window(self.rank, 2), margins)
        for stage, depth in enumerate(self.depths, start=1):
            blocks = getattr(self, f"stage{stage}")
            for i in range(depth):
                x = self._run(blocks[i], x)
                if f"stage{stage}_{i}" in self.inserted:
                    x = self._run(self.inserted[f"stage{stage}_{i}"], x)
            maps[f"stage{stage}"] = x
            if stage == 1 and self.frame_pooling > 1:
                window = _window(self.rank, 1, self.frame_pooling)
                x = nnx.max_pool(x, window, window)
        return maps

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.features(x)[f"stage{len(self.depths)}"]
        if self.head_window is None:
            x = x.mean(tuple(range(1, x.ndim - 1)))
        else:
            x = _window_means(x, self.head_window)
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
        size = [height, width]
        if self.pooled:
            margin = 2 * self.stem_margin - 3
            size = [(_halved(n) + margin) // 2 + 1 for n in size]
        sizes = []
        for stage in range(1, len(self.depths) + 1):
            if stage > 1 and stage not in (*self.dilated, *self.unstrided):
                size = [_halved(n) for n in size]
            if stage == 2:
                frames = [n // self.frame_pooling for n in frames]
            if min(*frames, *size) < 1:
                raise ValueError(
                    f"the input of size {tuple(input_size)} is too small: nothing is left of it in "
                    f"stage {stage}"
                )
            sizes.append((*frames, *size))
        return sizes


def _window(rank: int, size: int, temporal: int = 1) -> tuple[int, ...]:
    """Return ``size`` for the axes of space and, for video, ``temporal`` for that of time."""
    return (temporal,) * (rank - 2) + (size, size)


def _halved(size: int) -> int:
    """Return what a convolution of stride 2, padded by half its window, leaves of a size."""
    return (size + 1) // 2


def _window_means(x: jax.Array, window: int) -> jax.Array:
    """Average all frames and windows of space: ``[N, (T,) H, W, C] -> [N, H', W', C]``.

    A map that is smaller than the window is one window.
    """
    y = x.astype(wide(x.dtype))
    y = y.mean(tuple(range(1, x.ndim - 3)))
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer
        return nnx.avg_pool(y, tuple(min(window, n) for n in y.shape[1:3])).astype(x.dtype)


def _with_ratios(convolution: Convolution, ratio_in: float, ratio_out: float) -> Convolution:
    if ratio_in == ratio_out == 0:
        return conv
    return functools.partial(convolution, ratio_in=ratio_in, ratio_out=ratio_out)


def _check_places(places, depths, block) -> dict[int, tuple[int, ...]]:
    if places and block is None:
        raise ValueError(f"blocks_after={places} but no block to insert was given")
    for stage, indices in places.items():
        if not 1 <= stage <= len(depths):
            raise ValueError(f"blocks_after names stage {stage}; expected 1 to {len(depths)}")
        for i in indices:
            if not 0 <= i < depths[stage - 1]:
                raise ValueError(
                    f"blocks_after places a block after number {i} of stage {stage}, "
                    f"which has {depths[stage - 1]} (from 0)"
                )
    return {stage: tuple(indices) for stage, indices in places.items()}
