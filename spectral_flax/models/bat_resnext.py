# SPDX-License-Identifier: Apache-2.0
"""A trained network of bilinear attention on the Hub: timm's ResNeXt-26 with it in each block."""

import functools
from collections.abc import Sequence
from typing import Any, Unpack

from flax import nnx

from spectral_flax.layers.activations import silu
from spectral_flax.layers.bilinear import bat
from spectral_flax.layers.blocks import BLOCKS
from spectral_flax.layers.conv import Size
from spectral_flax.layers.deep_stem import DeepStem
from spectral_flax.layers.numerics import Numerics
from spectral_flax.models.head import Head
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add
from spectral_flax.models.residual import Residual
from spectral_flax.models.resnet import ResNet, Stem


def tiered_stem(
    in_features: int, out_features: int, kernel_size: Size, **options: Any
) -> nnx.Module:
    """Build the first convolutions: three eighths and a half of the features, then all."""
    widths = (max(1, 3 * out_features // 8), max(1, out_features // 2))
    return DeepStem(in_features, out_features, 3, widths=widths, activation=silu, **options)


def bat_resnext26ts(
    *,
    num_classes: int | None = 1000,
    dropout: float = 0.0,
    attention_dropout: float = 0.2,
    in_features: int = 3,
    drop_path: float = 0.0,
    grid: int = 8,
    width: int = 64,
    depths: Sequence[int] = (2, 2, 2, 2),
    **numerics: Unpack[Numerics],
) -> ResNet:
    """Build the network: ``[N, H, W, in_features] -> [N, num_classes]``.

    Args:
      num_classes: None leaves the head out: the result is the pooled features.
      dropout: rate of dropout before the head.
      attention_dropout: rate at which channels of an attention are dropped.
      in_features: channels of the input.
      drop_path: chance that the last residual block is skipped in training (see `Residual`).
      grid: positions of the attention along each side; the smallest map has as many at least.
      width: features of the first stage's narrow convolutions, a multiple of 32.
      depths: residual blocks of each stage.

    Raises:
      ValueError: an option has no such value.
    """
    if width % 32:
        raise ValueError(f"width={width}; expected a multiple of 32, the features of a group")
    within = functools.partial(
        bat, grid=grid, groups=2, reduction=4, use_bias=False, dropout=attention_dropout
    )
    return ResNet(
        depths,
        residual=Residual(
            within=within, activation=silu, drop_path=drop_path, features_per_group=32
        ),
        stem=Stem(in_features=in_features, kernel=3, layer=tiered_stem),
        head=Head(num_classes=num_classes, dropout=dropout),
        width=width,
        **numerics,
    )


add(
    Model(
        name="bat_resnext26ts",
        function=bat_resnext26ts,
        card=Card(
            paper=BLOCKS["bat"].paper,
            code="huggingface/pytorch-image-models",
            licence="Apache-2.0",
            input_size=(256, 256),
            resize=284,
            interpolation="bicubic",
        ),
        title="ResNeXt-26 with bilinear attention in every block, of timm: "
        "``[N, H, W, in_features] -> [N, num_classes]``.",
        family="resnext",
        task="classification",
    )
)
