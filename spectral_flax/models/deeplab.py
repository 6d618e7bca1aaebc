# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3: a dilated ResNet, a pyramid of dilated convolutions, logits of each pixel.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, as in
torchvision.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import jax

from spectral_flax.layers.atrous import AtrousPyramid
from spectral_flax.layers.blocks import Builder
from spectral_flax.layers.conv import conv
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.models.classifier import PLAIN, resnet_classifier
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add
from spectral_flax.models.resnet import ResNet


class DeepLab(Rematerialisable):
    """Logits of each pixel: ``[N, H, W, in_features] -> [N, H, W, num_classes]``, any H, W.

    Args:
      backbone: the network whose last map is classified.
      num_classes: of each pixel.
      pyramid_features: of each branch of the pyramid, and behind it.
      rates: dilations of the pyramid.
      dropout: rate of dropout behind the pyramid.
    """

    def __init__(
        self,
        backbone: ResNet,
        *,
        num_classes: int = 21,
        pyramid_features: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.5,
        **numerics: Unpack[Numerics],
    ):
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}; expected at least 1")
        self.backbone = backbone
        options = dict(rates=rates, dropout=dropout, **numerics)
        self.pyramid = AtrousPyramid(backbone.num_features, pyramid_features, **options)
        self.conv = ConvNormAct(pyramid_features, pyramid_features, 3, **numerics)
        self.head = conv(pyramid_features, num_classes, use_bias=True, **numerics)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the maps by name: those of the backbone, ``pyramid`` and ``conv``."""
        maps = self.backbone.features(x)
        pyramid = self._run(self.pyramid, maps[self.backbone.last_map])
        return maps | {"pyramid": pyramid, "conv": self.conv(pyramid)}

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.head(self.features(x)["conv"])
        size = (*y.shape[:1], *x.shape[1:3], y.shape[-1])
        return jax.image.resize(y, size, "bilinear")


def deeplab(
    *,
    backbone: str,
    block: str | Builder | None = None,
    blocks_at: Mapping[int, Sequence[int]] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (512, 512),
    num_classes: int = 21,
    in_features: int = 3,
    output_stride: int = 8,
    rates: Sequence[int] | None = None,
    dropout: float = 0.5,
    width: int = 64,
    pyramid_features: int = 256,
    depths: Sequence[int] | None = None,
    **numerics: Unpack[Numerics],
) -> DeepLab:
    """Build a DeepLabV3: ``[N, H, W, in_features] -> [N, H, W, num_classes]``.

    Args:
      backbone: a key of `BACKBONES`.
      block: the name of a block of `layers.blocks.BLOCKS`, a function of one's own as in
        `layers.register_block`, or None.
      blocks_at: residual blocks that one follows (stage → zero-based); None: the published ones.
      block_options: options of the block; None: the published ones.
      input_size: H, W of the images that blocks of fixed map size are built for.
      num_classes: of each pixel.
      in_features: channels of the input.
      output_stride: of the backbone's last map, in place of which the published ones have 8 or 16.
      rates: dilations of the pyramid; None: 12, 24 and 36 at stride 8, in proportion at others.
      dropout: rate of dropout behind the pyramid.
      width: features of the backbone's first narrow convolutions.
      pyramid_features: of each branch of the pyramid.
      depths: residual blocks of each stage; None: those of the backbone.

    Raises:
      ValueError: an option has no such value.
    """
    network = resnet_classifier(
        rank=2,
        backbone=backbone,
        **PLAIN,
        block=block,
        blocks_at=blocks_at,
        block_options=block_options,
        input_size=input_size,
        num_classes=None,
        in_features=in_features,
        width=width,
        depths=depths,
        output_stride=output_stride,
        **numerics,
    )
    if rates is None:
        rates = [max(1, rate * 8 // output_stride) for rate in (12, 24, 36)]
    options = dict(pyramid_features=pyramid_features, dropout=dropout, rates=rates)
    return DeepLab(network, num_classes=num_classes, **options, **numerics)


def _model(backbone: str) -> Model:
    return Model(
        name=f"deeplabv3_{backbone}",
        function=deeplab,
        card=Card(
            paper="Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, "
            "2017",
            code="pytorch/vision",
            licence="BSD-3-Clause",
            input_size=(512, 512),
            fit="any",
        ),
        title=f"DeepLabV3 on {backbone.replace('resnet', 'ResNet-')}: "
        "``[N, H, W, in_features] -> [N, H, W, num_classes]``.",
        family="deeplabv3",
        task="segmentation",
        fixed=dict(backbone=backbone),
    )


for _backbone in ("resnet50", "resnet101"):
    add(_model(_backbone))
