# SPDX-License-Identifier: Apache-2.0
"""Appearance-and-relation networks of videos.

Wang et al., "Appearance-and-Relation Networks for Video Classification", CVPR 2018, as in the
network definitions of wanglimin/ARTNet.
"""

from collections.abc import Sequence
from typing import Literal, Unpack

import jax
from flax import nnx

from spectral_flax.layers.activations import relu
from spectral_flax.layers.conv import conv
from spectral_flax.layers.norm import BatchNorm, ConvNormAct
from spectral_flax.layers.numerics import Numerics, types_of
from spectral_flax.layers.video_conv import RelationConv
from spectral_flax.models.head import Head
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add
from spectral_flax.models.residual import BlockShape, Geometry, Residual, has_projection
from spectral_flax.models.resnet import ResNet, Stem


class RelationBlock(nnx.Module):
    """A 3x3x3 convolution, then appearance and relation, beside a shortcut.

    The sum is normalised and rectified, and nothing else behind the second convolution. The
    shortcut of a strided block is a 3x3x3 convolution. Blocks of the last stage (whose shape sees
    one frame) have a plain 3x3x3 convolution in place of appearance and relation.
    """

    def __init__(
        self, shape: BlockShape, options: Residual, *, rank: int = 3, **numerics: Unpack[Numerics]
    ):
        both = dict(rank=rank, **numerics)
        strides = (shape.temporal_stride, shape.strides, shape.strides)
        features = shape.in_features, shape.out_features
        self.conv1 = ConvNormAct(*features, 3, strides=strides, **both)
        second = RelationConv if shape.temporal_kernel > 1 else conv
        self.conv2 = second(shape.out_features, shape.out_features, 3, **both)
        self.shortcut = (
            conv(*features, 3, strides=strides, **both) if has_projection(shape) else None
        )
        self.norm = BatchNorm(shape.out_features, **types_of(numerics))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv2(self.conv1(x))
        return relu(self.norm(y + (x if self.shortcut is None else self.shortcut(x))))


def artnet(
    *,
    num_classes: int | None = 400,
    dropout: float = 0.2,
    in_features: int = 3,
    stem: Literal["video", "small"] = "video",
    width: int = 64,
    depths: Sequence[int] = (2, 2, 2, 2),
    **numerics: Unpack[Numerics],
) -> ResNet:
    """Build an ARTNet: ``[N, T, H, W, in_features] -> [N, num_classes]``.

    Args:
      num_classes: None leaves the head out: the result is the pooled features.
      dropout: rate of dropout before the head.
      in_features: channels of the input.
      stem: "video" (3x7x7, stride 2 in time and space) or "small" (3x3x3, stride 1).
      width: features of the first stage; each stage doubles it.
      depths: residual blocks of each stage.

    Raises:
      ValueError: an option has no such value.
    """
    if stem not in ("video", "small"):
        raise ValueError(f"stem={stem!r}; expected 'video' or 'small'")
    size = dict(kernel=7, stride=2) if stem == "video" else dict(kernel=3, stride=1)
    last = len(depths) - 1
    return ResNet(
        depths,
        residual=Residual(bottleneck=False, module=RelationBlock),
        stem=Stem(
            in_features=in_features,
            layer=RelationConv,
            temporal_kernel=3,
            temporal_stride=size["stride"],
            pool=False,
            **size,
        ),
        head=Head(num_classes=num_classes, dropout=dropout),
        width=width,
        rank=3,
        geometry=Geometry(
            temporal_kernels=[[1 if i == last else 3] * n for i, n in enumerate(depths)],
            temporal_strides=[1] + [2] * last,
        ),
        **numerics,
    )


add(
    Model(
        name="artnet_resnet18",
        function=artnet,
        card=Card(
            paper="Wang et al., Appearance-and-Relation Networks for Video Classification, "
            "CVPR 2018",
            code="wanglimin/ARTNet",
            input_size=(16, 112, 112),
            resize=128,
            stride=1,
            channel_order="BGR",
            mean=(104 / 255, 117 / 255, 123 / 255),
            std=(1 / 255,) * 3,
            published="Kinetics-400 top-1 69.2, 70.7 with segments (16 frames)",
            note="The published network is in Caffe; its convolutions behind the first stage have "
            "biases, which the normalisations take away.",
        ),
        title="ResNet-18 of appearance and relation: "
        "``[N, T, H, W, in_features] -> [N, num_classes]``.",
        family="artnet",
        task="classification",
        rank=3,
    )
)
