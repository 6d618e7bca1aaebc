# SPDX-License-Identifier: Apache-2.0
"""Names of torchvision's ResNet and of the published FFC code."""

from spectral_flax.checkpoints.rules.layouts import each, joined, linear_of_pointwise, spectrum
from spectral_flax.checkpoints.rules.tables import Rule, nested, register_rules
from spectral_flax.layers.basic import ConvNormAct
from spectral_flax.layers.ffc import FFC, FourierUnit, SpectralTransform
from spectral_flax.models.resnet import ResNet


def _input_sizes(ffc: FFC) -> tuple[int, int]:
    return ffc.in_local, ffc.in_features - ffc.in_local


def _output_sizes(block: ConvNormAct) -> tuple[int, int]:
    if isinstance(block.conv, FFC):
        return block.conv.out_local, block.conv.out_features - block.conv.out_local
    return block.norm.num_features, 0


FOURIER_UNIT = [Rule("conv", "conv_layer", spectrum), Rule("norm", "bn", spectrum)]

SPECTRAL_TRANSFORM = [
    Rule(r"reduce\.conv", "conv1.0"),
    Rule(r"reduce\.norm", "conv1.1"),
    *nested(FOURIER_UNIT, "fourier_unit", "fu"),
    *nested(FOURIER_UNIT, "local_fourier_unit", "lfu"),
    Rule("expand", "conv2"),
]

FFC_RULES = [
    Rule("to_local", ("convl2l", "convg2l"), joined(-2, _input_sizes)),
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

STEM_AND_HEAD = [
    Rule(r"stem\.conv", "conv1"),
    Rule(r"stem\.norm", "bn1"),
    Rule("head", "fc"),
]

_BLOCK = r"stage(?P<stage>\d)\.(?P<block>\d+)"

TORCHVISION = [
    *STEM_AND_HEAD,
    Rule(_BLOCK + r"\.conv(?P<conv>\d)\.conv", "layer{stage}.{block}.conv{conv}"),
    Rule(_BLOCK + r"\.conv(?P<conv>\d)\.norm", "layer{stage}.{block}.bn{conv}"),
    Rule(_BLOCK + r"\.shortcut\.conv", "layer{stage}.{block}.downsample.0"),
    Rule(_BLOCK + r"\.shortcut\.norm", "layer{stage}.{block}.downsample.1"),
    Rule(_BLOCK + r"\.se\.reduce", "layer{stage}.{block}.se.fc.0"),
    Rule(_BLOCK + r"\.se\.expand", "layer{stage}.{block}.se.fc.2"),
]


def _se_sizes(block) -> tuple[int, int]:
    return _output_sizes(block.conv3 or block.conv2)


_SE = "layer{stage}.{block}.se_block."

FFC_RESNET = [
    *STEM_AND_HEAD,
    *nested(FFC_NORM_ACT, _BLOCK + r"\.conv(?P<conv>\d)", "layer{stage}.{block}.conv{conv}"),
    *nested(FFC_NORM_ACT, _BLOCK + r"\.shortcut", "layer{stage}.{block}.downsample"),
    Rule(_BLOCK + r"\.se\.reduce", _SE + "conv1", linear_of_pointwise),
    Rule(
        _BLOCK + r"\.se\.expand",
        (_SE + "conv_a2l", _SE + "conv_a2g"),
        each(linear_of_pointwise, joined(-1, _se_sizes)),
        above=2,
    ),
]

register_rules(FourierUnit, FOURIER_UNIT)
register_rules(SpectralTransform, SPECTRAL_TRANSFORM)
register_rules(FFC, FFC_RULES)
register_rules(ConvNormAct, FFC_NORM_ACT, "FFC_BN_ACT")
register_rules(ResNet, TORCHVISION, "torchvision")
register_rules(ResNet, FFC_RESNET, "FFC")
