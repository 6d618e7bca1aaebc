# SPDX-License-Identifier: Apache-2.0
"""Names of torchvision's DeepLabV3."""

from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules, tables_for
from spectral_flax.layers.atrous import AtrousPyramid
from spectral_flax.models.deeplab import DeepLab

# A head on the third stage, for training alone.
AUXILIARY = r"aux_classifier\..*"


def _unit(path: str, conv: str, norm: str) -> list[Rule]:
    return [Rule(rf"{path}\.conv", conv), Rule(rf"{path}\.norm", norm)]


def _pyramid(module: AtrousPyramid) -> list[Rule]:
    rules = _unit("point", "convs.0.0", "convs.0.1")
    for i in range(len(module.atrous)):
        rules += _unit(rf"atrous\.{i}", f"convs.{i + 1}.0", f"convs.{i + 1}.1")
    mean = f"convs.{len(module.atrous) + 1}"  # its pooling counts
    return [
        *rules,
        *_unit("mean", f"{mean}.1", f"{mean}.2"),
        *_unit("project", "project.0", "project.1"),
    ]


def _deeplab(model: DeepLab) -> list[Rule]:
    backbone = dict(tables_for(model.backbone))["torchvision"]
    return [
        *nested(backbone, "backbone", "backbone"),
        *nested(_pyramid(model.pyramid), "pyramid", "classifier.0"),
        *_unit("conv", "classifier.1", "classifier.2"),
        Rule("head", "classifier.4"),
    ]


register_rules(AtrousPyramid, _pyramid, "torchvision")
register_rules(DeepLab, _deeplab, "torchvision", ignored=AUXILIARY)
