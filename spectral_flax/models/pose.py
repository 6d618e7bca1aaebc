# SPDX-License-Identifier: Apache-2.0
"""Human pose: a ResNet, deconvolutions, a heatmap for each joint, and any block in between.

Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018; with spectral
residual blocks: Chi et al., "Spectral Residual Learning".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.layers.conv import conv
from spectral_flax.layers.initializers import normal
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.layers.transposed import TransposedConvNormAct
from spectral_flax.models.image import BACKBONES
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.registry import Card
from spectral_flax.models.resnet import ResNet
from spectral_flax.models.variants import BLOCK_PAPERS, BLOCK_TITLES, define

# Padding and output padding with which a transposed convolution of stride 2 doubles a map.
_PADDINGS = {2: (0, 0), 3: (1, 1), 4: (1, 0)}

_ENCODERS = {"strided": {}, "dilated": dict(dilated=(3, 4)), "unstrided": dict(unstrided=(3, 4))}


class PoseResNet(Rematerialisable):
    """Heatmaps of joints: ``[N, H, W, in_features] -> [N, H', W', num_joints]``.

    Each deconvolution doubles the encoder's map. Three behind a ResNet of stride 32, or one behind
    one of stride 8, make H' = H / 4 for H in multiples of 32 (of 8).

    Args:
      encoder: a ResNet without a head.
      deconvolutions: transposed convolutions of stride 2, with normalisation and ReLU.
      kernels: their sides, 2, 3 or 4: one for all, or one for each.
      width: their features.
      blocks_after: zero-based deconvolutions after which ``block(width, size=…)`` stands.
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
        blocks_after: Sequence[int] = (),
        input_size: Sequence[int] = (256, 192),
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        for name, value in (("num_joints", num_joints), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}={value}; expected at least 1")
        if deconvolutions < 0:
            raise ValueError(f"deconvolutions={deconvolutions}; expected at least 0")
        if blocks_after and block is None:
            raise ValueError(f"blocks_after={tuple(blocks_after)} but no block was given")
        for i in blocks_after:
            if not 0 <= i < deconvolutions:
                raise ValueError(
                    f"blocks_after={tuple(blocks_after)}; expected numbers of the "
                    f"{deconvolutions} deconvolutions, from 0"
                )
        numerics = dict(dtype=dtype, param_dtype=param_dtype, precision=precision, rngs=rngs)
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
            if i in blocks_after:
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


def pose_resnet(
    *,
    backbone: str,
    block: str | None = None,
    decoder_blocks: Sequence[int] | None = None,
    blocks_after: Mapping[int, Sequence[int]] | None = None,
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
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> PoseResNet:
    """Build a pose network: ``[N, H, W, in_features] -> [N, H/4, W/4, num_joints]``.

    Args:
      backbone: a key of `image.BACKBONES`.
      block: the name of a block of `layers.blocks.BLOCKS`, or None.
      decoder_blocks: zero-based deconvolutions after which it stands; None: all of them, unless
        ``blocks_after`` puts it into the encoder.
      blocks_after: the encoder's residual blocks (stage → zero-based) after which it stands.
      block_options: options of the block; None is as published.
      input_size: H, W of the images that blocks of fixed map size are built for.
      encoder: "strided"; "dilated": the strides of stages 3 and 4 are replaced by dilation;
        "unstrided": they are left out.
      deconvolutions: None: three, or one for an encoder without those strides.
      deconvolution_kernels: their sides, 2, 3 or 4 (as published): one for all, or one for each.
      depths: residual blocks of each stage; None is that of the backbone.

    Raises:
      ValueError: an option has no such value, or places are named without a block.
      TypeError: the block has no such option.
    """
    if encoder not in _ENCODERS:
        raise ValueError(f"encoder={encoder!r}; expected one of {', '.join(map(repr, _ENCODERS))}")
    if block is None and decoder_blocks:
        raise ValueError(f"decoder_blocks={tuple(decoder_blocks)} but block=None")
    published_depths, kind = BACKBONES[backbone]
    depths = published_depths if depths is None else depths
    bottleneck = kind.get("bottleneck", True)
    places = {} if block is not None and blocks_after is None else blocks_after
    inserted = inserted_blocks(block, places, block_options, depths, bottleneck, rank=2)
    if deconvolutions is None:
        deconvolutions = 3 if encoder == "strided" else 1
    if decoder_blocks is None:
        decoder_blocks = range(deconvolutions) if block is not None and not blocks_after else ()
    numerics = dict(dtype=dtype, param_dtype=param_dtype, precision=precision, rngs=rngs)
    resnet = ResNet(
        depths,
        **inserted,
        input_size=input_size,
        in_features=in_features,
        width=encoder_width,
        num_classes=None,
        **_ENCODERS[encoder],
        **kind,
        **numerics,
    )
    return PoseResNet(
        resnet,
        num_joints=num_joints,
        deconvolutions=deconvolutions,
        kernels=deconvolution_kernels,
        width=decoder_width,
        block=inserted.get("block"),
        blocks_after=tuple(decoder_blocks),
        input_size=input_size,
        **numerics,
    )


_PAPER = "Xiao et al., Simple Baselines for Human Pose Estimation and Tracking, ECCV 2018"
# COCO val2017 AP at 256x192, 384x288; detector boxes with person AP 56.4, flip test
_AP = {
    "resnet50": "COCO AP 70.4, 72.2",
    "resnet101": "COCO AP 71.4, 73.6",
    "resnet152": "COCO AP 72.0, 74.3",
    "resnet50_nl": "COCO AP 70.6, 72.8",
    "resnet50_a2": "COCO AP 70.5, 72.8",
    "resnet50_cgnl_rbf": "COCO AP 70.6, 72.4",
    "resnet50_rcca": "COCO AP 70.6, 72.8",
    "resnet50_srl_fft": "COCO AP 70.9, 73.3",
    "resnet101_srl_fft": "COCO AP 71.8, 74.3",
    "resnet152_srl_fft": "COCO AP 72.1, 74.6",
}
_BGR = "Published weights saw BGR images normalised with the mean and deviation of RGB."
_RBF = "What the published pose code calls cgnl is cgnl_rbf here. "


def _define(backbone: str, block: str | None) -> None:
    name = backbone + (f"_{block}" if block else "")
    card = Card(
        paper=BLOCK_PAPERS.get(block, _PAPER),
        code="1820366459/SRL-Pose-Estimation" if block else "microsoft/human-pose-estimation",
        licence="" if block else "MIT",
        input_size=(256, 192),
        channel_order="BGR",
        published=_AP.get(name, ""),
        note=(_RBF if block == "cgnl" else "") + _BGR,
    )
    title = backbone.replace("resnet", "ResNet-") + " for poses"
    title += f", with {BLOCK_TITLES[block]} after each deconvolution" if block else ""
    fixed = dict(backbone=backbone) | (dict(block=block) if block else {})
    doc = f"{title}: ``[N, H, W, in_features] -> [N, H/4, W/4, num_joints]``."
    define(f"pose_{name}", pose_resnet, card, doc, **fixed)


for _backbone in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
    for _block in (None, *(name for name in BLOCK_TITLES if name != "bat3d")):
        _define(_backbone, _block)
