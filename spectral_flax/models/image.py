# SPDX-License-Identifier: Apache-2.0
"""Image classification: ResNet, ResNeXt and their FFC forms."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.functional.fourier import Implementation
from spectral_flax.layers.ffc import FFC
from spectral_flax.models.registry import Card, register
from spectral_flax.models.resnet import ResNet

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

_RESNET_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_RESNEXT_PAPER = "Xie et al., Aggregated Residual Transformations, CVPR 2017"
_FFC_PAPER = "Chi, Jiang and Mu, Fast Fourier Convolution, NeurIPS 2020"
_FFC_TOP1 = {"resnet50": "ImageNet top-1 77.6 (ratio 0.25), 77.8 with LFU"}


def _define(backbone: str) -> None:
    """Register ``backbone`` and its FFC form."""
    depths_default, fixed = BACKBONES[backbone]

    def plain(
        *,
        num_classes: int | None = 1000,
        in_features: int = 3,
        se: bool = False,
        stem: str = "imagenet",
        width: int = 64,
        depths: Sequence[int] = depths_default,
        dilated: Sequence[int] = (),
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ) -> ResNet:
        return ResNet(
            depths,
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
            **fixed,
        )

    def ffc(
        *,
        ratio: float = 0.25,
        lfu: bool = True,
        local_to_global: bool = True,
        global_to_local: bool = True,
        implementation: Implementation = "auto",
        num_classes: int | None = 1000,
        in_features: int = 3,
        se: bool = False,
        stem: str = "imagenet",
        width: int = 64,
        depths: Sequence[int] = depths_default,
        dilated: Sequence[int] = (),
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ) -> ResNet:
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
            **fixed,
        )

    plain.__name__ = backbone
    plain.__doc__ = f"""{_title(backbone)}: ``[N, H, W, in_features] -> [N, num_classes]``.

    Options as in `ResNet`.
    """
    ffc.__name__ = f"ffc_{backbone}"
    ffc.__doc__ = f"""{_title(backbone)} whose every 3x3 and 1x1 convolution is an FFC.

    ``ratio=0`` is the plain {backbone}. ``lfu``, ``local_to_global``, ``global_to_local`` and
    ``implementation`` as in `FFC` (the published code's default ratio is 0.5, its tables' is
    0.25); other options as in `ResNet`.
    """
    paper = _RESNEXT_PAPER if "next" in backbone else _RESNET_PAPER
    register(Card(paper=paper, code="pytorch/vision", licence="BSD-3-Clause"))(plain)
    register(
        Card(
            paper=_FFC_PAPER,
            code="pkumivision/FFC",
            licence="Apache-2.0",
            published=_FFC_TOP1.get(backbone, ""),
            note="Published weights were trained on images decoded from MXNet records and with "
            "cuFFT's inverse of non-Hermitian spectra; both cost them some accuracy here.",
        )
    )(ffc)


def _title(backbone: str) -> str:
    return backbone.replace("resnet", "ResNet-").replace("resnext", "ResNeXt-")


for _name in BACKBONES:
    _define(_name)
