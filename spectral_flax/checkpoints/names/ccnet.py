# SPDX-License-Identifier: Apache-2.0
"""Names of CCNet, whose normalisations (InPlaceABN) scale by the magnitude of their weight."""

import numpy as np

from spectral_flax.checkpoints.names.attention import CRISS_CROSS
from spectral_flax.checkpoints.names.layouts import single
from spectral_flax.checkpoints.names.resnet import RESIDUAL_BLOCK, stage_rules
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules
from spectral_flax.layers.deep_stem import DeepStem
from spectral_flax.models.ccnet import CCNet, CrissCrossHead

EPSILON = 1e-5
# A head on the third stage, for training alone.
AUXILIARY = r"dsn\..*"

# |w| + eps <-> w
_magnitude = single(lambda w: np.abs(w) + EPSILON, lambda scale: scale - EPSILON)


def _with_magnitudes(rules: list[Rule]) -> list[Rule]:
    """Return the rules, before each of a normalisation one of its scale alone."""
    result = []
    for rule in rules:
        if rule.path.endswith("norm"):
            result.append(Rule(rf"{rule.path}\.scale", f"{rule.names[0]}.weight", _magnitude))
        result.append(rule)
    return result


def _unit(path: str, name: str) -> list[Rule]:
    return [Rule(rf"{path}\.conv", f"{name}.0"), Rule(rf"{path}\.norm", f"{name}.1")]


CRISS_CROSS_HEAD = [
    *_unit("reduce", "conva"),
    *nested(CRISS_CROSS, "attention", "cca"),
    *_unit("expand", "convb"),
    *_unit("join", "bottleneck"),
    Rule("classify", "bottleneck.3"),
]


def _stem(stem: DeepStem) -> list[Rule]:
    last = len(stem.units) + 1
    rules = [Rule(r"stem\.conv\.last", f"conv{last}"), Rule(r"stem\.norm", f"bn{last}")]
    for i in range(1, last):
        unit = rf"stem\.conv\.units\.{i - 1}"
        rules += [Rule(rf"{unit}\.conv", f"conv{i}"), Rule(rf"{unit}\.norm", f"bn{i}")]
    return rules


def _ccnet(model: CCNet) -> list[Rule]:
    name = lambda place: f"layer{place.stage}.{place.residual}"
    blocks = stage_rules(model.backbone, RESIDUAL_BLOCK, (), name)
    rules = [
        *nested([*_stem(model.backbone.stem.conv), *blocks], "backbone", ""),
        *nested(CRISS_CROSS_HEAD, "head", "head"),
    ]
    return _with_magnitudes(rules)


register_rules(CrissCrossHead, _with_magnitudes(CRISS_CROSS_HEAD), "CCNet")
register_rules(CCNet, _ccnet, "CCNet", ignored=AUXILIARY)
