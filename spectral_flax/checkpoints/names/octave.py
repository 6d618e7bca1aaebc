# SPDX-License-Identifier: Apache-2.0
"""Names of octave convolutions in d-li14/octconv.pytorch."""

from spectral_flax.checkpoints.names.resnet import STEM, stage_rules
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules
from spectral_flax.layers.octave import OctaveConv, OctaveConvNormAct
from spectral_flax.models.resnet import ResNet

_LETTERS = {"high": "h", "low": "l"}

OCTAVE_CONV = [
    Rule(f"{start}_to_{end}", f"conv_{_LETTERS[start]}2{_LETTERS[end]}")
    for start in _LETTERS
    for end in _LETTERS
]
OCTAVE_UNIT = [
    *nested(OCTAVE_CONV, "conv", "conv"),
    *(Rule(f"norm_{part}", f"bn_{letter}") for part, letter in _LETTERS.items()),
]
OCTAVE_BLOCK = [
    *nested(OCTAVE_UNIT, r"conv(?P<n>\d)", "conv{n}"),
    *nested(OCTAVE_UNIT, "shortcut", "downsample.0"),
]


def _octave(model: ResNet) -> list[Rule]:
    if not isinstance(getattr(model.stage1[0], "conv1", None), OctaveConvNormAct):
        return []
    name = lambda place: f"layer{place.stage}.{place.residual}"
    return [*STEM, *stage_rules(model, OCTAVE_BLOCK, (), name), Rule("head", "fc")]


register_rules(OctaveConv, OCTAVE_CONV, "octconv.pytorch")
register_rules(OctaveConvNormAct, OCTAVE_UNIT, "octconv.pytorch")
register_rules(ResNet, _octave, "octconv.pytorch")
