# SPDX-License-Identifier: Apache-2.0
"""Human pose: a ResNet, deconvolutions, a heatmap for each joint, and any block in between.

Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018; with spectral
residual blocks: Chi et al., "Spectral Residual Learning".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack

import jax
from flax import nnx

from spectral_flax.layers.blocks import BLOCKS, Builder, blocks_of_rank
from spectral_flax.layers.conv import conv
from spectral_flax.layers.initializers import normal
from spectral_flax.layers.non_local import RBF_GAMMA
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.layers.transposed import TransposedConvNormAct
from spectral_flax.models.classifier import BACKBONES
from spectral_flax.models.head import Head
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add
from spectral_flax.models.residual import Geometry, Residual
from spectral_flax.models.resnet import ResNet, Stem

# Padding and output padding with which a transposed convolution of stride 2 doubles a map.
_PADDINGS = {2: (0, 0), 3: (1, 1), 4: (1, 0)}

DECODER = "decoder"  # names the deconvolutions in ``blocks_at``
_ENCODERS = {
    "strided": Geometry(),
    "dilated": Geometry(dilated=(3, 4)),
    "unstrided": Geometry(unstrided=(3, 4)),
}


class PoseResNet(Rematerialisable):
    """Heatmaps of joints: ``[N, H, W, in_features] -> [N, H', W', num_joints]``.

    Each deconvolution doubles the encoder's map. Three behind a ResNet of stride 32, or one behind
    one of stride 8, make H' = H / 4 for H in multiples of 32 (of 8).

    Args:
      encoder: a ResNet without a head.
      deconvolutions: transposed convolutions of stride 2, with normalisation and ReLU.
      kernels: their sides, 2, 3 or 4: one for all, or one for each.
      width: their features.
      blocks_at: zero-based deconvolutions that a ``block(width, size=…)`` follows.
      input_size: H, W of the images that blocks of fixed map size are built for.
    """

    def __init__(
        self,
        encoder: ResNet,
        *,
        num_joints: int = 17,
        deconvolutions: int = 3,
        kernels: int | Sequence[int] = 4,
        width: int = 256,
        block: Callable[..., nnx.Module] | None = None,
        blocks_at: Sequence[int] = (),
        input_size: Sequence[int] = (256, 192),
        **numerics: Unpack[Numerics],
    ):
        for name, value in (("num_joints", num_joints), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}={value}; expected at least 1")
        if deconvolutions < 0:
            raise ValueError(f"deconvolutions={deconvolutions}; expected at least 0")
        if blocks_at and block is None:
            raise ValueError(f"blocks_at={tuple(blocks_at)} but no block was given")
        for i in blocks_at:
            if not 0 <= i < deconvolutions:
                raise ValueError(
                    f"blocks_at={tuple(blocks_at)}; expected numbers of the "
                    f"{deconvolutions} deconvolutions, from 0"
                )
        initial = dict(kernel_init=normal(0.001))
        height, width_ = encoder.map_sizes(input_size)[-1]
        features = encoder.num_features
        self.encoder = encoder
        layers, self.blocks = [], nnx.Dict()
        for i, kernel in enumerate(_check_kernels(kernels, deconvolutions)):
            padding, output_padding = _PADDINGS[kernel]
            options = dict(padding=padding, output_padding=output_padding, **initial, **numerics)
            layers.append(TransposedConvNormAct(features, width, kernel, **options))
            features, height, width_ = width, 2 * height, 2 * width_
            if i in blocks_at:
                self.blocks[str(i)] = block(features, rank=2, size=(height, width_), **numerics)
        self.deconvolutions = nnx.List(layers)
        self.head = conv(features, num_joints, use_bias=True, **initial, **numerics)
        self.heatmap_size = (height, width_)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the encoder's feature maps and ``deconvolution1``, … by name."""
        maps = self.encoder.features(x)
        x = maps[f"stage{len(self.encoder.depths)}"]
        for i, layer in enumerate(self.deconvolutions):
            x = self._run(layer, x)
            if str(i) in self.blocks:
                x = self._run(self.blocks[str(i)], x)
            maps[f"deconvolution{i + 1}"] = x
        return maps

    def __call__(self, x: jax.Array) -> jax.Array:
        count = len(self.deconvolutions)
        # By its name: a dictionary that comes out of `jit` is in the order of its keys.
        last = f"deconvolution{count}" if count else f"stage{len(self.encoder.depths)}"
        return self.head(self.features(x)[last])


def _check_kernels(kernels: int | Sequence[int], count: int) -> tuple[int, ...]:
    found = tuple(kernels) if isinstance(kernels, Sequence) else (kernels,) * count
    if len(found) != count or not all(k in _PADDINGS for k in found):
        sides = ", ".join(map(str, _PADDINGS))
        raise ValueError(
            f"deconvolution_kernels={kernels!r}; expected one of {sides}, or {count} of them"
        )
    return found


# Where the published pose networks (SRL-Pose-Estimation) differ from the block's own paper.
_BLOCK_OPTIONS = {"a2": {"distribute": "positions"}, "cgnl": {"gamma": RBF_GAMMA}}


def pose_resnet(
    *,
    backbone: str,
    block: str | Builder | None = None,
    blocks_at: Mapping[int | Literal["decoder"], Sequence[int]] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (256, 192),
    encoder: Literal["strided", "dilated", "unstrided"] = "strided",
    deconvolutions: int | None = None,
    deconvolution_kernels: int | Sequence[int] = 4,
    num_joints: int = 17,
    in_features: int = 3,
    encoder_width: int = 64,
    decoder_width: int = 256,
    depths: Sequence[int] | None = None,
    **numerics: Unpack[Numerics],
) -> PoseResNet:
    """Build a pose network: ``[N, H, W, in_features] -> [N, H/4, W/4, num_joints]``.

    Args:
      backbone: a key of `image.BACKBONES`.
      block: the name of a block of `layers.blocks.BLOCKS`, a function of one's own as in
        `layers.register_block`, or None.
      blocks_at: what one follows: zero-based deconvolutions under "decoder", residual blocks of
        the encoder under their stage; None: every deconvolution.
      block_options: options of the block; None: the published ones.
      input_size: H, W of the images that blocks of fixed map size are built for.
      encoder: "strided"; "dilated": the strides of stages 3 and 4 are replaced by dilation;
        "unstrided": they are left out.
      deconvolutions: None: three, or one for an encoder without those strides.
      deconvolution_kernels: their sides, 2, 3 or 4 (as published): one for all, or one for each.
      num_joints: heatmaps of the result.
      in_features: channels of the input.
      encoder_width: features of the first stage's narrow convolutions.
      decoder_width: features of the deconvolutions.
      depths: residual blocks of each stage; None is that of the backbone.

    Raises:
      ValueError: an option has no such value, or ``blocks_at`` is given without a block.
      TypeError: the block has no such option.
    """
    if encoder not in _ENCODERS:
        raise ValueError(f"encoder={encoder!r}; expected one of {', '.join(map(repr, _ENCODERS))}")
    if deconvolutions is None:
        deconvolutions = 3 if encoder == "strided" else 1
    if blocks_at is None:
        blocks_at = {} if block is None else {DECODER: tuple(range(deconvolutions))}
    in_encoder, in_decoder = _by_network(block, blocks_at)
    published_depths, kind = BACKBONES[backbone]
    depths = published_depths if depths is None else depths
    residual = Residual(**kind)
    block_options = {**_BLOCK_OPTIONS.get(block, {}), **(block_options or {})}
    inserted = inserted_blocks(
        block, in_encoder, block_options, depths, residual.bottleneck, rank=2
    )
    resnet = ResNet(
        depths,
        residual=residual,
        stem=Stem(in_features=in_features),
        head=Head(num_classes=None),
        width=encoder_width,
        input_size=input_size,
        **inserted,
        geometry=_ENCODERS[encoder],
        **numerics,
    )
    return PoseResNet(
        resnet,
        num_joints=num_joints,
        deconvolutions=deconvolutions,
        kernels=deconvolution_kernels,
        width=decoder_width,
        block=inserted.get("block"),
        blocks_at=in_decoder,
        input_size=input_size,
        **numerics,
    )


def _by_network(
    block: str | Builder | None, blocks_at: Any
) -> tuple[dict[int, Any], tuple[int, ...]]:
    """Return what blocks follow in the encoder, by stage, and in the decoder."""
    if block is None and blocks_at:
        raise ValueError(f"blocks_at={blocks_at!r} but block=None: no block to insert")
    in_decoder = blocks_at.get(DECODER, ()) if isinstance(blocks_at, Mapping) else None
    if not isinstance(in_decoder, Sequence):
        raise ValueError(
            f"blocks_at={blocks_at!r}; expected deconvolutions and residual blocks, as "
            f"{{{DECODER!r}: (0, 1), 2: (1, 3)}}"
        )
    in_encoder = {stage: blocks for stage, blocks in blocks_at.items() if stage != DECODER}
    return in_encoder, tuple(in_decoder)


_PAPER = "Xiao et al., Simple Baselines for Human Pose Estimation and Tracking, ECCV 2018"
# COCO val2017 AP at 256x192, 384x288; detector boxes with person AP 56.4, flip test
_AP = {
    "resnet50": "COCO AP 70.4, 72.2",
    "resnet101": "COCO AP 71.4, 73.6",
    "resnet152": "COCO AP 72.0, 74.3",
    "resnet50_nl": "COCO AP 70.6, 72.8",
    "resnet50_a2": "COCO AP 70.5, 72.8",
    "resnet50_cgnl": "COCO AP 70.6, 72.4",
    "resnet50_cgnl_rbf": "COCO AP 70.6, 72.4",
    "resnet50_rcca": "COCO AP 70.6, 72.8",
    "resnet50_srl_fft": "COCO AP 70.9, 73.3",
    "resnet101_srl_fft": "COCO AP 71.8, 74.3",
    "resnet152_srl_fft": "COCO AP 72.1, 74.6",
}
_BGR = "Published weights saw BGR images normalised with the mean and deviation of RGB."
_RBF = "With the RBF kernel, as in the published pose code: the same as cgnl_rbf. "


def _model(backbone: str, block: str | None) -> Model:
    name = backbone + (f"_{block}" if block else "")
    card = Card(
        paper=BLOCKS[block].paper if block else _PAPER,
        code="1820366459/SRL-Pose-Estimation" if block else "microsoft/human-pose-estimation",
        licence="" if block else "MIT",
        input_size=(256, 192),
        channel_order="BGR",
        published=_AP.get(name, ""),
        note=(_RBF if block == "cgnl" else "") + _BGR,
    )
    title = backbone.replace("resnet", "ResNet-") + " for poses"
    title += f", with {BLOCKS[block].title} after each deconvolution" if block else ""
    fixed = dict(backbone=backbone) | (dict(block=block) if block else {})
    return Model(
        name=f"pose_{name}",
        function=pose_resnet,
        card=card,
        title=f"{title}: ``[N, H, W, in_features] -> [N, H/4, W/4, num_joints]``.",
        family="pose_resnet",
        task="pose",
        block=block,
        fixed=fixed,
    )


for _backbone in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
    for _block in (None, *blocks_of_rank(2)):
        add(_model(_backbone, _block))
