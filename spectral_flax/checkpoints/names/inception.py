# SPDX-License-Identifier: Apache-2.0
"""Names of Inception networks: torchvision's GoogLeNet and S3D, piergiaj's I3D."""

from collections.abc import Sequence

from spectral_flax.checkpoints.names.resnet import pointwise_head
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules
from spectral_flax.layers.video_conv import FactorisedConv
from spectral_flax.models.inception import STAGES, Inception

# Published training heads, which evaluation does not use.
AUXILIARY = r"aux[12]\..*"

_BLOCKS = [name for stage in STAGES for name in stage]
_PLACES = {name: rf"stage{n}\.inception{name}" for n, s in enumerate(STAGES, 1) for name in s}


def _unit(path: str, name: str, conv: str, norm: str) -> list[Rule]:
    joined = lambda part: f"{name}.{part}"
    return [Rule(rf"{path}\.conv", joined(conv)), Rule(rf"{path}\.norm", joined(norm))]


def _branches(names: dict[str, str], conv: str, norm: str) -> list[Rule]:
    return [rule for ours, theirs in names.items() for rule in _unit(ours, theirs, conv, norm)]


def _googlenet(model: Inception) -> list[Rule]:
    if model.rank != 2:
        return []
    names = ("conv", "bn")
    branches = dict(
        point="branch1",
        reduce="branch2.0",
        square="branch2.1",
        reduce2="branch3.0",
        square2="branch3.1",
        pooled="branch4.1",
    )
    block = _branches(branches, *names)
    outer = _branches(dict(stem="conv1", reduce="conv2", expand="conv3"), *names)
    blocks = [r for name in _BLOCKS for r in nested(block, _PLACES[name], f"inception{name}")]
    return [*outer, *blocks, Rule("head", "fc")]


def _separable(path: str, name: str) -> list[Rule]:
    return [
        Rule(rf"{path}\.conv\.spatial\.conv", f"{name}.0.0"),
        Rule(rf"{path}\.conv\.spatial\.norm", f"{name}.0.1"),
        Rule(rf"{path}\.conv\.temporal", f"{name}.1.0"),
        Rule(rf"{path}\.norm", f"{name}.1.1"),
    ]


def _s3d(model: Inception) -> list[Rule]:
    if not isinstance(model.stem.conv, FactorisedConv):
        return []
    points = dict(point="branch0", reduce="branch1.0", reduce2="branch2.0", pooled="branch3.1")
    block = _branches(points, "0", "1")
    block += _separable("square", "branch1.1") + _separable("square2", "branch2.1")
    numbers = dict(zip(_BLOCKS, (5, 6, 8, 9, 10, 11, 12, 14, 15), strict=True))
    return [
        *_separable("stem", "features.0"),
        *_unit("reduce", "features.2", "0", "1"),
        *_separable("expand", "features.3"),
        *(r for b in _BLOCKS for r in nested(block, _PLACES[b], f"features.{numbers[b]}")),
        Rule("head", "classifier.1", pointwise_head),
    ]


def _i3d(model: Inception) -> Sequence[Rule]:
    if model.rank != 3 or isinstance(model.stem.conv, FactorisedConv):
        return []
    names = ("conv3d", "bn")
    letters = dict(point="0", reduce="1a", square="1b", reduce2="2a", square2="2b", pooled="3b")
    block = _branches({ours: f"b{theirs}" for ours, theirs in letters.items()}, *names)
    outer = dict(stem="Conv3d_1a_7x7", reduce="Conv3d_2b_1x1", expand="Conv3d_2c_3x3")
    later = {name: name[0] + chr(ord(name[1]) + 1) for name in _BLOCKS}  # theirs begin with b
    blocks = [r for b in _BLOCKS for r in nested(block, _PLACES[b], f"Mixed_{later[b]}")]
    return [*_branches(outer, *names), *blocks, Rule("head", "logits.conv3d", pointwise_head)]


register_rules(Inception, _googlenet, "torchvision", ignored=AUXILIARY)
register_rules(Inception, _s3d, "torchvision video")
register_rules(Inception, _i3d, "pytorch-i3d")
