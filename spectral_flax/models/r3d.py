# SPDX-License-Identifier: Apache-2.0
"""Residual networks whose every convolution sees time: R(2+1)D, R3D and MC3.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, as in
torchvision.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

from flax import nnx

from spectral_flax.layers.blocks import Builder
from spectral_flax.layers.conv import Size
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.video_conv import FactorisedConv
from spectral_flax.models import units
from spectral_flax.models.classifier import BACKBONES
from spectral_flax.models.head import Head
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add
from spectral_flax.models.residual import Geometry, Residual
from spectral_flax.models.resnet import ResNet, Stem

PAPER = (
    "Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018"
)
# torchvision's, for all its networks of videos.
NORMALISATION = dict(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))


def factorised_stem(
    in_features: int, out_features: int, kernel_size: Size, **options: Any
) -> nnx.Module:
    """Build the first convolution of R(2+1)D, with the published 45 features in between."""
    mid = max(1, 45 * out_features // 64)
    return FactorisedConv(in_features, out_features, kernel_size, mid_features=mid, **options)


_STEM = Stem(temporal_kernel=3, pool=False)
_STEMS = {"video": _STEM, "small": dataclasses.replace(_STEM, kernel=3, stride=1)}


def r3d(
    *,
    backbone: str,
    kind: Literal["r3d", "r2plus1d", "mc3"],
    block: str | Builder | None = None,
    blocks_at: Mapping[int, Sequence[int]] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (16, 112, 112),
    num_classes: int | None = 400,
    dropout: float = 0.0,
    in_features: int = 3,
    drop_path: float = 0.0,
    stem: Literal["video", "small"] = "video",
    width: int = 64,
    depths: Sequence[int] | None = None,
    **numerics: Unpack[Numerics],
) -> ResNet:
    """Build a classifier of videos, ``[N, T, H, W, in_features] -> [N, num_classes]``.

    Args:
      backbone: a key of `BACKBONES`.
      kind: "r3d" (3x3x3 convolutions), "r2plus1d" (each in two steps, over space and over time) or
        "mc3" (3x3x3 in the first stage, 1x3x3 behind it).
      block: the name of a block of `layers.blocks.BLOCKS`, a function of one's own as in
        `layers.register_block`, or None.
      blocks_at: residual blocks that one follows (stage → zero-based); None: the published ones.
      block_options: options of the block; None: the published ones.
      input_size: T, H, W of the input that blocks of fixed map size are built for.
      num_classes: None leaves the head out: the result is the pooled features.
      dropout: rate of dropout before the head.
      in_features: channels of the input.
      drop_path: chance that the last residual block is skipped in training (see `Residual`).
      stem: "video" (3x7x7, stride 2 in space) or "small" (3x3x3, stride 1, for small frames).
      width: features of the first stage's narrow convolutions.
      depths: residual blocks of each stage; None: those of the backbone.

    Raises:
      ValueError: an option has no such value.
    """
    if stem not in _STEMS:
        raise ValueError(f"stem={stem!r}; expected 'video' or 'small'")
    published_depths, kinds = BACKBONES[backbone]
    depths = published_depths if depths is None else depths
    factorised = kind == "r2plus1d"
    options = dict(spatiotemporal=True, drop_path=drop_path, **kinds)
    residual = Residual(**options, **(dict(unit=units.factorised) if factorised else {}))
    in_time = [True] * len(depths) if kind != "mc3" else [n == 0 for n in range(len(depths))]
    first = dict(layer=factorised_stem) if factorised else {}
    return ResNet(
        depths,
        residual=residual,
        stem=dataclasses.replace(_STEMS[stem], in_features=in_features, **first),
        head=Head(num_classes=num_classes, dropout=dropout),
        width=width,
        rank=3,
        geometry=Geometry(
            temporal_kernels=[[3 if t else 1] * n for t, n in zip(in_time, depths, strict=True)],
            temporal_strides=[2 if t and n else 1 for n, t in enumerate(in_time)],
        ),
        **inserted_blocks(block, blocks_at, block_options, depths, residual.bottleneck, rank=3),
        input_size=input_size,
        **numerics,
    )


_TITLES = {
    "r3d": "whose every convolution is three-dimensional",
    "r2plus1d": "whose every convolution is one over space and one over time",
    "mc3": "with three-dimensional convolutions in the first stage",
}
_PUBLISHED = {
    "r2plus1d_resnet34": "Kinetics-400 top-1 72.0 (RGB, 32 frames)",
    "r2plus1d_resnet18": "Kinetics-400 top-1 57.5 (single clips of 16 frames)",
    "r3d_resnet18": "Kinetics-400 top-1 63.2 (5 clips of 16 frames)",
    "mc3_resnet18": "Kinetics-400 top-1 63.96 (5 clips of 16 frames)",
}


def _model(kind: str, backbone: str) -> Model:
    name = f"{kind}_{backbone}"
    return Model(
        name=name,
        function=r3d,
        card=Card(
            paper=PAPER,
            code="pytorch/vision",
            licence="BSD-3-Clause",
            input_size=(16, 112, 112),
            resize=128,
            stride=1,
            published=_PUBLISHED.get(name, ""),
            **NORMALISATION,
        ),
        title=f"{backbone.replace('resnet', 'ResNet-')} {_TITLES[kind]}: "
        "``[N, T, H, W, in_features] -> [N, num_classes]``.",
        family="r3d",
        task="classification",
        rank=3,
        fixed=dict(backbone=backbone, kind=kind),
    )


for _kind, _backbone in (
    ("r2plus1d", "resnet18"),
    ("r2plus1d", "resnet34"),
    ("r2plus1d", "resnet50"),
    ("r3d", "resnet18"),
    ("mc3", "resnet18"),
):
    add(_model(_kind, _backbone))
