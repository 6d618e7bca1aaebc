# SPDX-License-Identifier: Apache-2.0
"""Image classification: ResNet, ResNeXt, their FFC forms, and any block in any of them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.functional.fourier import Implementation
from spectral_flax.layers.ffc import FFC
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.registry import Card
from spectral_flax.models.resnet import ResNet
from spectral_flax.models.variants import BLOCK_PAPERS, BLOCK_TITLES, PLAIN, define

# name: blocks of each stage, and what differs from a network of plain bottlenecks
BACKBONES: dict[str, tuple[tuple[int, ...], dict]] = {
    "resnet18": ((2, 2, 2, 2), dict(bottleneck=False)),
    "resnet26": ((2, 2, 2, 2), {}),
    "resnet34": ((3, 4, 6, 3), dict(bottleneck=False)),
    "resnet50": ((3, 4, 6, 3), {}),
    "resnet101": ((3, 4, 23, 3), {}),
    "resnet152": ((3, 8, 36, 3), {}),
    "resnext50_32x4d": ((3, 4, 6, 3), dict(groups=32, width_per_group=4)),
    "resnext101_32x8d": ((3, 4, 23, 3), dict(groups=32, width_per_group=8)),
}


def image_resnet(
    *,
    backbone: str,
    ratio: float = 0.25,
    lfu: bool = True,
    local_to_global: bool = True,
    global_to_local: bool = True,
    implementation: Implementation = "auto",
    project_first: bool = False,
    block: str | None = None,
    blocks_after: Mapping[int, Sequence[int]] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (224, 224),
    num_classes: int | None = 1000,
    in_features: int = 3,
    se: bool = False,
    stem: str = "imagenet",
    width: int = 64,
    depths: Sequence[int] | None = None,
    dilated: Sequence[int] = (),
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> ResNet:
    """Build an image classifier: ``[N, H, W, in_features] -> [N, num_classes]``.

    - ``backbone``: a key of `BACKBONES`.
    - ``ratio``: the share of global channels of the FFCs; 0 is the plain network. The published
      code's default is 0.5, its tables' is 0.25.
    - ``lfu``, ``local_to_global``, ``global_to_local``, ``implementation``: as in `FFC`.
    - ``project_first``: of published FFC networks of basic blocks with ratio 0 (see `ResNet`).
    - ``block``: the name of a block of `layers.blocks.BLOCKS`, or None.
    - ``blocks_after``: the residual blocks (stage → zero-based) after which it stands; None is
      where it was published (see `placement`).
    - ``block_options``: options of the block; None is as published.
    - ``input_size``: H, W of the images that blocks of fixed map size are built for.
    - ``depths``: residual blocks of each stage; None is that of the backbone.

    Other options as in `ResNet`.
    """
    published_depths, kind = BACKBONES[backbone]
    depths = published_depths if depths is None else depths
    blocks = inserted_blocks(
        block, blocks_after, block_options, depths, kind.get("bottleneck", True), rank=2
    )
    convolution = functools.partial(
        FFC,
        lfu=lfu,
        local_to_global=local_to_global,
        global_to_local=global_to_local,
        implementation=implementation,
    )
    return ResNet(
        depths,
        convolution=convolution,
        ratio=ratio,
        project_first=project_first,
        **blocks,
        input_size=input_size,
        num_classes=num_classes,
        in_features=in_features,
        se=se,
        stem=stem,
        width=width,
        dilated=dilated,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
        **kind,
    )


_RESNET_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_RESNEXT_PAPER = "Xie et al., Aggregated Residual Transformations, CVPR 2017"
_FFC_PAPER = "Chi, Jiang and Mu, Fast Fourier Convolution, NeurIPS 2020"
_RECORDS = "Published weights were trained on images decoded from MXNet records"
_NOTES = {
    "ffc": f"{_RECORDS} and with cuFFT's inverse of non-Hermitian spectra; both cost them some "
    "accuracy here.",
    "bat": f"{_RECORDS}, which costs them some accuracy on JPEG files.",
}
_DEEPER = "Published code and weights have 32 residual blocks in stage 3: depths=(3, 4, 32, 3). "
_PUBLISHED = {
    "resnet50": "ImageNet top-1 76.3",
    "ffc_resnet50": "ImageNet top-1 77.6 (ratio 0.25), 77.8 with LFU",
    "resnet18": "ImageNet top-1 70.2",
    "resnet18_nl": "ImageNet top-1 70.9",
    "resnet18_bat": "ImageNet top-1 71.3",
    "resnet50_nl": "ImageNet top-1 77.5",
    "resnet50_bat": "ImageNet top-1 78.3",
    "resnet101_bat": "ImageNet top-1 79.1",
    "resnet152_bat": "ImageNet top-1 79.4",
    "resnet50_cgnl": "ImageNet top-1 77.69",
    "resnet50_cgnl_rbf": "ImageNet top-1 77.32",
    "resnet152_cgnl": "ImageNet top-1 79.53",
    "resnet152_cgnl_rbf": "ImageNet top-1 79.37",
    "resnet50_glore": "ImageNet top-1 78.4",
}
_CODE = {
    "bat": "BA-Transform/BAT-Image-Classification",
    "nl": "BA-Transform/BAT-Image-Classification",
}


def _define(backbone: str, ffc: bool, block: str | None) -> None:
    """Register a backbone, plain or FFC, with a block or without."""
    name = "_".join(filter(None, ("ffc" if ffc else "", backbone, block)))
    deeper = _DEEPER if backbone == "resnext101_32x8d" else ""
    plain_paper = _RESNEXT_PAPER if "next" in backbone else _RESNET_PAPER
    card = Card(
        paper=BLOCK_PAPERS.get(block) or (_FFC_PAPER if ffc else plain_paper),
        code=_CODE.get(block, "pkumivision/FFC" if ffc else "pytorch/vision"),
        licence="Apache-2.0" if ffc else ("" if block else "BSD-3-Clause"),
        published=_PUBLISHED.get(name, ""),
        note=deeper + _NOTES["ffc"] if ffc else _NOTES.get(block, ""),
    )
    title = backbone.replace("resnet", "ResNet-").replace("resnext", "ResNeXt-")
    title += " whose every 3x3 and 1x1 convolution is an FFC" if ffc else ""
    title += f" with {BLOCK_TITLES[block]}" if block else ""
    fixed = dict(backbone=backbone) | ({} if ffc else PLAIN) | (dict(block=block) if block else {})
    doc = f"{title}: ``[N, H, W, in_features] -> [N, num_classes]``."
    define(name, image_resnet, card, doc, **fixed)


for _backbone in BACKBONES:
    for _ffc in (False, True):
        for _block in (None, *(block for block in BLOCK_TITLES if block != "bat3d")):
            _define(_backbone, _ffc, _block)
