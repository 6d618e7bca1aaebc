# SPDX-License-Identifier: Apache-2.0
"""The video network of graph reasoning: a slim ResNet-50 that normalises before it convolves.

Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019, as in facebookresearch/GloRe.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

from spectral_flax.layers.blocks import BLOCKS, Builder
from spectral_flax.layers.numerics import Numerics
from spectral_flax.models.classifier import BACKBONES, temporal_kernels
from spectral_flax.models.head import Head
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add
from spectral_flax.models.residual import Geometry, Residual
from spectral_flax.models.resnet import ResNet, Stem

EPSILON = 1e-4


def lite_resnet(
    *,
    block: str | Builder | None = "glore",
    blocks_at: Mapping[int, Sequence[int]] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (8, 224, 224),
    num_classes: int | None = 400,
    dropout: float = 0.5,
    in_features: int = 3,
    drop_path: float = 0.0,
    stem: Literal["video", "small"] = "video",
    width: int = 64,
    depths: Sequence[int] | None = None,
    **numerics: Unpack[Numerics],
) -> ResNet:
    """Build the network: ``[N, T, H, W, in_features] -> [N, num_classes]``.

    Args:
      block: the name of a block of `layers.blocks.BLOCKS`, a function of one's own as in
        `layers.register_block`, or None.
      blocks_at: residual blocks that one follows (stage → zero-based); None: the published ones.
      block_options: options of the block; None: the published ones.
      input_size: T, H, W of the input that blocks of fixed map size are built for.
      num_classes: None leaves the head out: the result is the pooled features.
      dropout: rate of dropout before the head.
      in_features: channels of the input.
      drop_path: chance that the last residual block is skipped in training (see `Residual`).
      stem: "video" (3x5x5, stride 2 in space, pooling) or "small" (3x3x3, stride 1).
      width: features of the first stage's narrow convolutions; the stem has half of them.
      depths: residual blocks of each stage; None: those of ResNet-50.

    Raises:
      ValueError: an option has no such value.
    """
    if stem not in ("video", "small"):
        raise ValueError(f"stem={stem!r}; expected 'video' or 'small'")
    small = dict(kernel=3, stride=1, pool=False) if stem == "small" else dict(kernel=5)
    depths = BACKBONES["resnet50"][0] if depths is None else depths
    residual = Residual(preactivation=True, epsilon=EPSILON, drop_path=drop_path)
    return ResNet(
        depths,
        residual=residual,
        stem=Stem(in_features=in_features, features=max(1, width // 2), temporal_kernel=3, **small),
        head=Head(num_classes=num_classes, dropout=dropout),
        width=width,
        rank=3,
        geometry=Geometry(
            temporal_kernels=temporal_kernels(depths, bottleneck=True),
            temporal_strides=[2 if stage == 1 else 1 for stage in range(len(depths))],
        ),
        **inserted_blocks(block, blocks_at, block_options, depths, True, rank=3),
        input_size=input_size,
        **numerics,
    )


add(
    Model(
        name="glore_resnet50_lite",
        function=lite_resnet,
        card=Card(
            paper=BLOCKS["glore"].paper,
            code="facebookresearch/GloRe",
            licence="MIT",
            input_size=(8, 224, 224),
            published="Kinetics-400 top-1 75.1 (8 frames, 10 x 3 views), 68.0 of single clips",
        ),
        title="Slim ResNet-50 with graph reasoning units: "
        "``[N, T, H, W, in_features] -> [N, num_classes]``.",
        family="glore",
        task="classification",
        block="glore",
        rank=3,
    )
)
