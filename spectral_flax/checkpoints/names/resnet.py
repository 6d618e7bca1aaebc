# SPDX-License-Identifier: Apache-2.0
"""Names of torchvision's ResNet and of the published code of FFC and bilinear attention."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx

from spectral_flax.checkpoints.names.layouts import (
    Layout,
    each,
    joined,
    linear_of_pointwise,
    spectrum,
    summed,
)
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules, tables_for
from spectral_flax.layers.deep_stem import DeepStem
from spectral_flax.layers.ffc import FFC, FourierUnit, SpectralTransform
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.models.artnet import RelationBlock
from spectral_flax.models.residual import ResidualBlock
from spectral_flax.models.resnet import ResNet


def _input_sizes(ffc: FFC) -> tuple[int, int]:
    """Return how many local and global channels ``to_local`` sees."""
    return ffc.in_local, ffc.in_features - ffc.in_local if ffc.fuse_inputs else 0


def _output_sizes(block: ConvNormAct) -> tuple[int, int]:
    if isinstance(block.conv, FFC):
        return block.conv.out_local, block.conv.out_features - block.conv.out_local
    return block.norm.num_features, 0


def _local_layout(array) -> Layout:
    return summed(_input_sizes) if np.ndim(array) == 1 else joined(-2, _input_sizes)


# One convolution here makes the local output of all channels, where two were published.
_to_local = Layout(
    lambda arrays, ffc: _local_layout(arrays[0]).from_torch(arrays, ffc),
    lambda array, ffc: _local_layout(array).to_torch(array, ffc),
)

FOURIER_UNIT = [Rule("conv", "conv_layer", spectrum), Rule("norm", "bn", spectrum)]

SPECTRAL_TRANSFORM = [
    Rule(r"reduce\.conv", "conv1.0"),
    Rule(r"reduce\.norm", "conv1.1"),
    *nested(FOURIER_UNIT, "fourier_unit", "fu"),
    *nested(FOURIER_UNIT, "local_fourier_unit", "lfu"),
    Rule("expand", "conv2"),
]

FFC_RULES = [
    Rule("to_local", ("convl2l", "convg2l"), _to_local),
    Rule("global_to_local", "convg2l"),
    Rule("local_to_global", "convl2g"),
    *nested(SPECTRAL_TRANSFORM, "global_to_global", "convg2g"),
]

# FFC_BN_ACT. A convolution without global channels is a plain one here.
FFC_NORM_ACT = [
    Rule("conv", "ffc.convl2l"),
    *nested(FFC_RULES, "conv", "ffc"),
    Rule("norm", ("bn_l", "bn_g"), joined(-1, _output_sizes)),
]


# [O, I, 1, 1, 1] for videos, [O, I] for images <-> (I, O)
pointwise_head = Layout(
    lambda arrays, _: arrays[0].reshape(arrays[0].shape[:2]).T if arrays[0].ndim > 1 else arrays[0],
    lambda a, model: [
        a.T.reshape(*a.T.shape, *(1,) * 3) if a.ndim > 1 and model.rank == 3 else a.T
    ],
)

STEM = [Rule(r"stem\.conv", "conv1"), Rule(r"stem\.norm", "bn1")]

RESIDUAL_BLOCK = [
    Rule(r"conv(?P<conv>\d)\.conv", "conv{conv}"),
    Rule(r"conv(?P<conv>\d)\.conv\.offset", "conv{conv}.conv_offset"),  # mmcv's
    Rule(r"conv(?P<conv>\d)\.norm", "bn{conv}"),
    Rule(r"shortcut\.conv", "downsample.0"),
    Rule(r"shortcut\.norm", "downsample.1"),
    Rule(r"se\.reduce", "se.fc.0"),
    Rule(r"se\.expand", "se.fc.2"),
]

# Those of the networks with non-local or bilinear attention blocks (BAT-Image-Classification).
NLNET_RESIDUAL_BLOCK = [
    *(rule for rule in RESIDUAL_BLOCK if not rule.path.startswith("se")),
    Rule(r"se\.reduce", "se_block.excitation.0"),
    Rule(r"se\.expand", "se_block.excitation.2"),
]


def _se_sizes(block) -> tuple[int, int]:
    return _output_sizes(block.conv3 or block.conv2)


FFC_RESIDUAL_BLOCK = [
    *nested(FFC_NORM_ACT, r"conv(?P<conv>\d)", "conv{conv}"),
    *nested(FFC_NORM_ACT, "shortcut", "downsample"),
    Rule(r"se\.reduce", "se_block.conv1", linear_of_pointwise),
    Rule(
        r"se\.expand",
        ("se_block.conv_a2l", "se_block.conv_a2g"),
        each(linear_of_pointwise, joined(-1, _se_sizes)),
        above=2,
    ),
]

# The published code for videos names the parts of a block otherwise than that for images.
_FAMILY_OF_RANK = {2: ("BAT", "SRL"), 3: ("BAT video", "BAT", "SRL")}


class Place(NamedTuple):
    """Where a block is: its stage, from 1, and the residual block that it is or follows, from 0."""

    stage: int
    residual: int
    position: int
    inserted: bool


def stage_rules(
    model: ResNet,
    residual_block: Sequence[Rule],
    families: Sequence[str],
    name: Callable[[Place], str],
) -> list[Rule]:
    """Return the rules of all blocks, of which ``name`` gives the PyTorch names.

    Inserted blocks have the rules of the first of ``families`` that they have.
    """
    rules = []
    for stage, blocks in enumerate(model.stages, start=1):
        residual = -1
        for position, block in enumerate(blocks):
            inserted = not isinstance(block, ResidualBlock | RelationBlock)
            residual += not inserted
            table = _table(block, families) if inserted else residual_block
            place = Place(stage, residual, position, inserted)
            rules += nested(table, rf"stage{stage}\.{position}", name(place))
    return rules


def _table(block: nnx.Module, families: Sequence[str]) -> Sequence[Rule]:
    tables = dict(tables_for(block))
    return tables[next((family for family in families if family in tables), next(iter(tables)))]


def _in_sequence(model: ResNet) -> list[Rule]:
    """Return torchvision's names where an inserted block counts as one of its stage (CGNL)."""
    plain = sum(map(len, model.stages)) == sum(model.depths)
    if model.rank != 2 or plain:
        return []
    name = lambda place: f"layer{place.stage}.{place.position}"
    return [*STEM, *stage_rules(model, RESIDUAL_BLOCK, ("SRL",), name), Rule("head", "fc")]


def _name(place: Place) -> str:
    return f"layer{place.stage}.{'nl' if place.inserted else ''}{place.residual}"


def _rules(residual_block: Sequence[Rule], model: ResNet) -> list[Rule]:
    blocks = stage_rules(model, residual_block, _FAMILY_OF_RANK[model.rank], _name)
    return [*STEM, *blocks, Rule("head", "fc", pointwise_head)]


_TIMM_UNIT = [Rule("conv", "conv"), Rule("norm", "bn")]
_BYOB_UNITS = {
    "conv1": "conv1_1x1",
    "conv2": "conv2_kxk",
    "conv3": "conv3_1x1",
    "shortcut": "shortcut",
}


def _byobnet(model: ResNet) -> list[Rule]:
    """Return the names of timm's ByobNet, of networks with a module within their blocks."""
    if getattr(model.stage1[0], "within", None) is None or not isinstance(
        model.stem.conv, DeepStem
    ):
        return []
    last = len(model.stem.conv.units) + 1
    block = [rule for u, name in _BYOB_UNITS.items() for rule in nested(_TIMM_UNIT, u, name)]
    block += nested(_table(model.stage1[0].within, ("timm",)), "within", "attn")
    name = lambda place: f"stages.{place.stage - 1}.{place.residual}"
    return [
        *(
            rule
            for i in range(last - 1)
            for rule in nested(_TIMM_UNIT, rf"stem\.conv\.units\.{i}", f"stem.conv{i + 1}")
        ),
        Rule(r"stem\.conv\.last", f"stem.conv{last}.conv"),
        Rule(r"stem\.norm", f"stem.conv{last}.bn"),
        *stage_rules(model, block, (), name),
        Rule("head", "head.fc"),
    ]


def _nlnet(model: ResNet) -> list[Rule]:
    """Return the names of a network with gates, whose others are torchvision's."""
    gated = getattr(model.stage1[0], "se", None) is not None
    return _rules(NLNET_RESIDUAL_BLOCK, model) if gated else []


register_rules(FourierUnit, FOURIER_UNIT)
register_rules(SpectralTransform, SPECTRAL_TRANSFORM)
register_rules(FFC, FFC_RULES)
register_rules(ConvNormAct, FFC_NORM_ACT, "FFC_BN_ACT")
register_rules(ResNet, functools.partial(_rules, RESIDUAL_BLOCK), "torchvision")
register_rules(ResNet, _nlnet, "NLNet")
register_rules(ResNet, functools.partial(_rules, FFC_RESIDUAL_BLOCK), "FFC")
register_rules(ResNet, _in_sequence, "CGNL")
register_rules(ResNet, _byobnet, "timm ByobNet")
