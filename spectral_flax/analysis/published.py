# SPDX-License-Identifier: Apache-2.0
"""Complexity tables of the papers, recounted for our models under each table's convention.

The papers count differently from each other. The tables of images and video count convolutions as
multiply-adds but the two matrix products of non-local attention twice, in units of 1e9; the table
of poses counts all as multiply-adds, in units of 2**30. Both give a Fourier transform of N real
numbers N log2 N.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from spectral_flax.analysis.profile import Cost, profile
from spectral_flax.models.registry import MODELS, abstract_model


@dataclasses.dataclass(frozen=True)
class Convention:
    """How a paper turns counts into GFLOPs."""

    unit: float
    attention: int  # what a multiply-add in non-local attention counts

    def gflops(self, cost: Cost, nonlocal_: bool) -> float:
        attention = cost.attention * (self.attention if nonlocal_ else 1)
        return (cost.weights + attention + cost.transforms) / self.unit


CLASSIFICATION = Convention(unit=1e9, attention=2)
POSE = Convention(unit=2.0**30, attention=1)


@dataclasses.dataclass(frozen=True)
class Row:
    """One published row; ``base`` is the model that a row of differences is over.

    ``gflops`` and ``parameters`` (millions) are written as printed, which tells their precision.
    """

    label: str
    model: str
    shape: tuple[int, ...]
    gflops: str = ""
    parameters: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Recount:
    """A row with our counts in the row's own units."""

    row: Row
    gflops: float
    parameters: float


_IMAGE, _CLIP = (1, 224, 224, 3), (1, 8, 224, 224, 3)
_CLASSES = {"num_classes": 400}
_VIDEO = (
    "The maps after the first pooling are 55 x 55, as in the published code; 56 x 56 costs more."
)
_I3D = "The paper's 28.4 M repeats the GFLOPs: its I3D + NL less the blocks leaves 28.0."
_LFU = "Without the transforms, the published code itself counts 4.21."
_A2 = "The paper's own network is not published; ours is I3D with its five blocks."
_OCTAVE = "Alpha is not stated; ours is 0.1."
_GLORE = "The published code; its five units multiply nodes, states and positions."
_CHUNKS = (
    "Attention goes over equal parts of the positions, filled up: 6946 for 6912. Exact: 13.26."
)
_POWERS = "Elementwise products, such as the kernel's powers, are not counted here."
_POSE_SIZES = ((256, 192), (384, 288))
# gflops at both sizes, parameters
_POSE = {
    "nl": ("NL", ("2.90", "13.26"), ".39", _CHUNKS),
    "a2": ("A2", (".28", ".62"), ".20", ""),
    "cgnl": ("CGNL", (".39", ".88"), ".31", _POWERS),
    "rcca": ("RCCA", ("1.20", "2.76"), ".92", "The published code has 0.902 M in three blocks."),
    "srl_fft": ("SRL-FFT", (".09", ".20"), ".10", ""),
}


def _deeper(depth: int, gflops: str, parameters: str) -> Row:
    name = f"resnet{depth}_bat"
    return Row(f"ResNet-{depth} + BAT", name, _IMAGE, gflops, parameters)


def _added(depth: int, block: str, gflops: str, parameters: str) -> Row:
    base = f"resnet{depth}"
    label = f"ResNet-{depth}: {block.upper()} adds"
    return Row(label, f"{base}_{block}", _IMAGE, gflops, parameters, base=base)


def _clip(label: str, model: str, gflops: str, parameters: str, note: str = _VIDEO, **options: Any):
    return Row(label, model, _CLIP, gflops, parameters, _CLASSES | options, note=note)


TABLES: dict[str, tuple[Convention, tuple[Row, ...]]] = {
    "imagenet": (
        CLASSIFICATION,
        (
            Row("ResNet-50", "resnet50", _IMAGE, "4.1", "25.6"),
            Row("FFC-ResNet-50", "ffc_resnet50", _IMAGE, "4.2", "26.1", {"lfu": False}),
            Row("FFC-ResNet-50 + LFU", "ffc_resnet50", _IMAGE, "4.3", "26.7", {"lfu": True},
                note=_LFU),
            _added(18, "nl", ".23", ".17"),
            _added(18, "bat", ".03", ".13"),
            _added(50, "nl", "3.55", "7.36"),
            _added(50, "bat", "1.30", "4.67"),
            _deeper(50, "5.4", "30.2"),
            _deeper(101, "9.2", "49.2"),
            _deeper(152, "12.9", "64.9"),
        ),
    ),
    "kinetics": (
        CLASSIFICATION,
        (
            _clip("A2-Net", "i3d_resnet50_a2", "40.8", "", _A2),
            _clip("Oct-I3D", "octave_i3d_resnet50", "25.6", "", _OCTAVE),
            _clip("GloRe", "glore_resnet50_lite", "28.9", "", _GLORE),
            _clip("TSM", "tsm_resnet50", "32.8", "24.3", ""),
            _clip("C2D", "c2d_resnet50", "19.6", "24.3"),
            _clip("I3D", "i3d_resnet50", "28.4", "28.4", _I3D),
            _clip("C2D + NL", "c2d_resnet50_nl", "30.7", "31.7"),
            _clip("I3D + NL", "i3d_resnet50_nl", "39.5", "35.4"),
            _clip("C2D + BAT", "c2d_resnet50_bat", "24.8", "29.2"),
            _clip("I3D + BAT", "i3d_resnet50_bat", "33.6", "32.9"),
            _clip("C2D + 3D-BAT", "c2d_resnet50_bat3d", "24.8", "29.2"),
            _clip("FFC-C2D", "ffc_c2d_resnet50", "20.2", "24.9"),
            _clip("FFC-C2D + NL", "ffc_c2d_resnet50_nl", "31.4", "32.2"),
            _clip("FFC-I3D + NL", "ffc_i3d_resnet50_nl", "40.2", "35.9"),
        ),
    ),
    "pose": (
        POSE,
        tuple(
            Row(
                f"{label} adds, {height}x{width}",
                f"pose_resnet50_{block}",
                (1, height, width, 3),
                gflops[size],
                parameters,
                base="pose_resnet50",
                note=note,
            )
            for size, (height, width) in enumerate(_POSE_SIZES)
            for block, (label, gflops, parameters, note) in _POSE.items()
        ),
    ),
}  # fmt: skip


def recount(row: Row, convention: Convention) -> Recount | None:
    """Count a row with our model; None where the registry has no such model."""
    if row.model not in MODELS or (row.base and row.base not in MODELS):
        return None

    def cost(name: str, **options: Any) -> tuple[float, float]:
        total = profile(abstract_model(name, **options), row.shape).total
        nonlocal_ = name.endswith("_nl")
        return convention.gflops(total, nonlocal_), total.parameters / 1e6

    gflops, parameters = cost(row.model, **row.options)
    if row.base:
        base_gflops, base_parameters = cost(row.base, **row.options)
        gflops, parameters = gflops - base_gflops, parameters - base_parameters
    return Recount(row, gflops, parameters)


def agrees(ours: float, printed: str, tolerance: float) -> bool:
    """Whether a count agrees with a printed number: to its last digit, or within ``tolerance``.

    The papers cut numbers off as often as they round them, so one unit of that digit is allowed.
    """
    published, digits = float(printed), len(printed.partition(".")[2])
    return abs(ours - published) < max(10**-digits, tolerance * published)
