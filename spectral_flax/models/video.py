# SPDX-License-Identifier: Apache-2.0
"""Video classification: C2D and I3D, their FFC forms, and any block in any of them.

Wang et al., "Non-local Neural Networks", CVPR 2018, as in the code of bilinear attention (Chi et
al., CVPR 2020): a 2-D ResNet on every frame (C2D), or one whose stem and every second residual
block also see neighbouring frames (I3D); half the frames after stage 1.
"""

import dataclasses

from spectral_flax.layers.blocks import BLOCKS, blocks_of_rank
from spectral_flax.models.classifier import (
    FFC_PAPER,
    FOURIER,
    OCTAVE,
    OCTAVE_PAPER,
    PLAIN,
    resnet_classifier,
)
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add

# As published, where that differs from images.
DEFAULTS = dict(
    input_size=(8, 224, 224), num_classes=400, dropout=0.5, head_pool_size=7, stem_pool_padding=0
)

# Deformable convolutions are for images.
FLAT = dict(deformable_at=None, modulated=True)

_PAPER = "Wang et al., Non-local Neural Networks, CVPR 2018"
_PUBLISHED = {
    "c2d_resnet50": "71.9",
    "c2d_resnet50_nl": "73.8",
    "c2d_resnet50_bat": "74.5",
    "c2d_resnet50_bat3d": "75.2",
    "i3d_resnet50": "72.6",
    "i3d_resnet50_nl": "73.5",
    "i3d_resnet50_bat": "74.8",
    "ffc_c2d_resnet50": "73.5",
    "ffc_c2d_resnet50_nl": "74.9",
    "ffc_i3d_resnet50_nl": "75.1",
}


def _model(backbone: str, kind: str, ffc: bool, block: str | None) -> Model:
    """Return the record of C2D or I3D on a backbone, plain or FFC, with a block or without."""
    name = "_".join(filter(None, ("ffc" if ffc else "", kind, backbone, block)))
    published = _PUBLISHED.get(name)
    card = Card(
        paper=BLOCKS[block].paper if block else FFC_PAPER if ffc else _PAPER,
        code="BA-Transform/BAT-Video-Classification",
        input_size=(8, 224, 224),
        mean=tuple(m / 255 for m in (103.939, 116.779, 123.68)),
        std=(1 / 255,) * 3,
        published=f"Kinetics-400 top-1 {published} (8 frames, 10 x 3 views)" if published else "",
        note="Published weights see RGB in [0, 255] less a mean that is in the order BGR, as here.",
    )
    title = f"{kind.upper()} on {backbone.replace('resnet', 'ResNet-')}"
    title += " whose every convolution is an FFC" if ffc else ""
    title += f" with {BLOCKS[block].title}" if block else ""
    fixed = dict(backbone=backbone, temporal=kind == "i3d")
    fixed |= (FOURIER if ffc else PLAIN | FLAT) | (dict(block=block) if block else {})
    return Model(
        name=name,
        function=resnet_classifier,
        card=card,
        title=f"{title}: ``[N, T, H, W, in_features] -> [N, num_classes]``.",
        family=kind,
        task="classification",
        block=block,
        rank=3,
        ffc=ffc,
        fixed=fixed | dict(rank=3),
        defaults=DEFAULTS | (dict(lfu=False) if ffc else {}),
    )


for _backbone in ("resnet18", "resnet34", "resnet50", "resnet101"):
    for _kind in ("c2d", "i3d"):
        for _ffc in (False, True):
            for _block in (None, *blocks_of_rank(3)):
                add(_model(_backbone, _kind, _ffc, _block))


_SHIFT = Card(
    paper="Lin et al., TSM: Temporal Shift Module for Efficient Video Understanding, ICCV 2019",
    code="mit-han-lab/temporal-shift-module",
    licence="MIT",
    input_size=(8, 224, 224),
)
_SEGMENTS = Card(
    paper="Wang et al., Temporal Segment Networks, ECCV 2016",
    code="mit-han-lab/temporal-shift-module",
    licence="MIT",
    input_size=(8, 224, 224),
    sampling="uniform",
    note="A frame is a segment; the consensus is the mean of their logits.",
)
_OF_FRAMES = {"tsm_resnet50": "74.1", "tsm_resnet50_nl": "75.6"}


def _of_frames(kind: str, backbone: str, block: str | None) -> Model:
    """Return the record of a network that classifies each frame: TSM, and TSN without its shift."""
    name = "_".join(filter(None, (kind, backbone, block)))
    title = f"{backbone.replace('resnet', 'ResNet-')} of single frames, whose logits average"
    title += ", with a shift of channels in time" if kind == "tsm" else ""
    title += f", with {BLOCKS[block].title}" if block else ""
    card = _SHIFT if kind == "tsm" else _SEGMENTS
    if name in _OF_FRAMES:
        top = f"Kinetics-400 top-1 {_OF_FRAMES[name]} (8 frames, 10 x 3 views)"
        card = dataclasses.replace(card, published=top)
    about = dict(temporal_pool=1, temporal_shift=8 if kind == "tsm" else 0)
    about |= {"block_options": {"scale": 1.0, "pool_projected": True}} if block else {}
    return Model(
        name=name,
        function=resnet_classifier,
        card=card,
        title=f"{title}: ``[N, T, H, W, in_features] -> [N, num_classes]``.",
        family="tsm",
        task="classification",
        block=block,
        rank=3,
        fixed=dict(backbone=backbone, temporal=False, rank=3)
        | PLAIN
        | FLAT
        | (dict(block=block) if block else {}),
        defaults=DEFAULTS | dict(stem_pool_padding=1, head_pool_size=None) | about,
    )


for _backbone in ("resnet50", "resnet101"):
    for _kind, _block in (("tsn", None), ("tsm", None), ("tsm", "nl")):
        add(_of_frames(_kind, _backbone, _block))

add(
    Model(
        name="octave_i3d_resnet50",
        function=resnet_classifier,
        card=Card(
            paper=OCTAVE_PAPER,
            input_size=(8, 224, 224),
            published="Kinetics-400 top-1 74.6 (8 frames)",
            note="No code was published. The share of low frequencies, alpha in the paper, is the "
            "option ratio; the talk does not state it.",
        ),
        title="I3D on ResNet-50 of octave convolutions: "
        "``[N, T, H, W, in_features] -> [N, num_classes]``.",
        family="octave",
        task="classification",
        rank=3,
        fixed=dict(backbone="resnet50", temporal=True, rank=3) | OCTAVE,
        defaults=DEFAULTS | dict(ratio=0.1, stem_pool_padding=1),
    )
)
