# SPDX-License-Identifier: Apache-2.0
"""CCNet: a dilated ResNet-101 and recurrent criss-cross attention, logits of each pixel.

Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.layers.activations import LeakyReLU
from spectral_flax.layers.attention import CrissCrossAttention
from spectral_flax.layers.checks import as_map, check_multiple, check_positive
from spectral_flax.layers.conv import Size, conv
from spectral_flax.layers.deep_stem import DeepStem
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.models.classifier import BACKBONES
from spectral_flax.models.head import Head
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add
from spectral_flax.models.residual import Geometry, Residual
from spectral_flax.models.resnet import ResNet, Stem

LEAKY = LeakyReLU(0.01)


def deep_stem(in_features: int, out_features: int, kernel_size: Size, **options: Any) -> nnx.Module:
    """Build the first convolutions: half of the features twice, then all."""
    widths = (max(1, out_features // 2),) * 2
    return DeepStem(in_features, out_features, 3, widths=widths, **options)


class CrissCrossHead(nnx.Module):
    """Logits of a map that attends to itself: ``[N, H, W, in_features] -> [N, H, W, classes]``.

    Reduced to a quarter, attended ``recurrence`` times, convolved, and joined with the map itself.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        features: int = 512,
        recurrence: int = 2,
        dropout: float = 0.1,
        **numerics: Unpack[Numerics],
    ):
        check_positive(recurrence=recurrence, num_classes=num_classes)
        check_multiple("in_features", in_features, reduction=4)
        inner = in_features // 4
        leaky = dict(activation=LEAKY, **numerics)
        self.reduce = ConvNormAct(in_features, inner, 3, **leaky)
        self.attention = CrissCrossAttention(inner, **numerics)
        self.expand = ConvNormAct(inner, inner, 3, **leaky)
        self.join = ConvNormAct(in_features + inner, features, 3, **leaky)
        self.dropout = nnx.Dropout(dropout, broadcast_dims=(1, 2), rngs=numerics["rngs"])
        self.classify = conv(features, num_classes, use_bias=True, **numerics)
        self.recurrence, self.in_features = recurrence, in_features

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, 2, self.in_features)
        y = self.reduce(x)
        for _ in range(self.recurrence):
            y = self.attention(y)
        y = self.expand(y)
        y = self.join(jnp.concatenate([x.astype(y.dtype), y], -1))
        return self.classify(self.dropout(y))

    def query_maps(self, x: jax.Array, position: tuple[int, ...]) -> dict[str, jax.Array]:
        """Return the composed weights of one position by name (see `CrissCrossAttention`)."""
        x = as_map(x, 2, self.in_features)
        return self.attention.query_maps(self.reduce(x), position, self.recurrence)


class CCNet(Rematerialisable):
    """Logits of each pixel: ``[N, H, W, in_features] -> [N, H, W, num_classes]``, any H, W.

    ``features`` also has those of an eighth of the size, ``logits``. The published network has
    another head, on the third stage, for training alone.

    Args:
      num_classes: of each pixel.
      recurrence: applications of the attention.
      in_features: channels of the input.
      width: features of the backbone's first narrow convolutions.
      head_features: of the head.
      depths: residual blocks of each stage.
      dropout: rate at which channels of the head are dropped.
    """

    def __init__(
        self,
        *,
        num_classes: int = 19,
        recurrence: int = 2,
        in_features: int = 3,
        width: int = 64,
        head_features: int = 512,
        depths: Sequence[int] = BACKBONES["resnet101"][0],
        dropout: float = 0.1,
        **numerics: Unpack[Numerics],
    ):
        stem = Stem(
            in_features=in_features, features=2 * width, kernel=3, layer=deep_stem, pool_ceil=True
        )
        self.backbone = ResNet(
            depths,
            residual=Residual(),
            stem=stem,
            head=Head(num_classes=None),
            width=width,
            geometry=Geometry(dilated=(3, 4), dilate_first=True),
            **numerics,
        )
        features = self.backbone.num_features, num_classes
        options = dict(features=head_features, dropout=dropout, **numerics)
        self.head = CrissCrossHead(*features, recurrence=recurrence, **options)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the maps by name: those of the backbone, and ``logits``."""
        maps = self.backbone.features(x)
        return maps | {"logits": self._run(self.head, maps[self.backbone.last_map])}

    def __call__(self, x: jax.Array) -> jax.Array:
        logits = self.features(x)["logits"]
        return jax.image.resize(logits, (*x.shape[:-1], logits.shape[-1]), "bilinear")


add(
    Model(
        name="ccnet_resnet101",
        function=CCNet,
        card=Card(
            paper="Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019",
            code="speedinghzl/CCNet",
            licence="MIT",
            input_size=(769, 769),
            fit="any",
            channel_order="BGR",
            mean=(104.00698793 / 255, 116.66876762 / 255, 122.67891434 / 255),
            std=(1 / 255,) * 3,
            published="Cityscapes val mean IoU 79.74 (recurrence 2), 77.91 (1)",
            note="The published code enlarges logits with aligned corners, this one does not.",
        ),
        title="CCNet on ResNet-101: ``[N, H, W, in_features] -> [N, H, W, num_classes]``.",
        family="ccnet",
        task="segmentation",
    )
)
