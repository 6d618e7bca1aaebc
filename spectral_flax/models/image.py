# SPDX-License-Identifier: Apache-2.0
"""Image classification: ResNet, ResNeXt, their FFC forms, and any block in any of them."""

from spectral_flax.layers.blocks import BLOCKS, blocks_of_rank
from spectral_flax.models.classifier import (
    BACKBONES,
    FFC_PAPER,
    FOURIER,
    IMAGE,
    OCTAVE,
    OCTAVE_PAPER,
    PLAIN,
    resnet_classifier,
)
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add

_RESNET_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_RESNEXT_PAPER = "Xie et al., Aggregated Residual Transformations, CVPR 2017"
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


def _model(backbone: str, ffc: bool, block: str | None) -> Model:
    """Return the record of a backbone, plain or FFC, with a block or without."""
    name = "_".join(filter(None, ("ffc" if ffc else "", backbone, block)))
    deeper = _DEEPER if backbone == "resnext101_32x8d" else ""
    plain_paper = _RESNEXT_PAPER if "next" in backbone else _RESNET_PAPER
    card = Card(
        paper=BLOCKS[block].paper if block else FFC_PAPER if ffc else plain_paper,
        code=_CODE.get(block, "pkumivision/FFC" if ffc else "pytorch/vision"),
        licence="Apache-2.0" if ffc else ("" if block else "BSD-3-Clause"),
        published=_PUBLISHED.get(name, ""),
        note=deeper + _NOTES["ffc"] if ffc else _NOTES.get(block, ""),
    )
    title = backbone.replace("resnet", "ResNet-").replace("resnext", "ResNeXt-")
    title += " whose every 3x3 and 1x1 convolution is an FFC" if ffc else ""
    title += f" with {BLOCKS[block].title}" if block else ""
    fixed = (
        dict(backbone=backbone) | (FOURIER if ffc else PLAIN) | (dict(block=block) if block else {})
    )
    return Model(
        name=name,
        function=resnet_classifier,
        card=card,
        title=f"{title}: ``[N, H, W, in_features] -> [N, num_classes]``.",
        family="resnext" if "next" in backbone else "resnet",
        task="classification",
        block=block,
        ffc=ffc,
        fixed=fixed | IMAGE,
    )


for _backbone in BACKBONES:
    for _ffc in (False, True):
        for _block in (None, *blocks_of_rank(2)):
            add(_model(_backbone, _ffc, _block))


# At alpha 0.5, 120 epochs; d-li14/octconv.pytorch.
_OCTAVE = {"resnet50": "77.64", "resnet101": "78.79", "resnet152": "79.26"}


def _octave(backbone: str) -> Model:
    layers = backbone.removeprefix("resnet")
    return Model(
        name=f"octave_{backbone}",
        function=resnet_classifier,
        card=Card(
            paper=OCTAVE_PAPER,
            code="d-li14/octconv.pytorch",
            published=f"ImageNet top-1 {_OCTAVE[backbone]}" if backbone in _OCTAVE else "",
            note="The share of low frequencies, alpha in the paper, is the option ratio.",
        ),
        title=f"ResNet-{layers} of octave convolutions: "
        "``[N, H, W, in_features] -> [N, num_classes]``.",
        family="octave",
        task="classification",
        fixed=dict(backbone=backbone) | IMAGE | OCTAVE,
        defaults=dict(ratio=0.5),
    )


for _backbone in ("resnet26", "resnet50", "resnet101", "resnet152"):
    add(_octave(_backbone))

add(
    Model(
        name="resnet50_dcn",
        function=resnet_classifier,
        card=Card(
            paper="Zhu et al., Deformable ConvNets v2, CVPR 2019",
            note="Version 1 (Dai et al., ICCV 2017) is modulated=False.",
        ),
        title="ResNet-50 whose last stage has deformable convolutions: "
        "``[N, H, W, in_features] -> [N, num_classes]``.",
        family="resnet",
        task="classification",
        fixed=dict(backbone="resnet50") | IMAGE | PLAIN,
        defaults=dict(deformable_at="last_stage"),
    )
)
