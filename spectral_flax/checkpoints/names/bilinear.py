# SPDX-License-Identifier: Apache-2.0
"""Names of the published bilinear attentional transforms, for images and for videos."""

from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules
from spectral_flax.layers.bilinear import BilinearAttention, BilinearTransform

_CONV_NORM = [Rule("conv", "0"), Rule("norm", "1")]
_TIMM_CONV_NORM = [Rule("conv", "conv"), Rule("norm", "bn")]


def _transform(conv_norm):
    return [
        *nested(conv_norm, "reduce", "conv1"),
        Rule("rows", "conv_p"),
        Rule("columns", "conv_q"),
        Rule("frames", "conv_t"),
        *nested(conv_norm, "expand", "conv2"),
    ]


def _block(conv_norm, transform_name):
    return [
        *nested(conv_norm, "reduce", "conv1"),
        *nested(_transform(conv_norm), "transform", transform_name),
        *nested(conv_norm, "expand", "conv2"),
    ]


BILINEAR_TRANSFORM = _transform(_CONV_NORM)
BILINEAR_ATTENTION = _block(_CONV_NORM, "batransform")
TIMM_BILINEAR_ATTENTION = _block(_TIMM_CONV_NORM, "ba")

register_rules(BilinearTransform, BILINEAR_TRANSFORM, "BAT")
register_rules(BilinearTransform, _transform(_TIMM_CONV_NORM), "timm")
register_rules(BilinearAttention, BILINEAR_ATTENTION, "BAT")
register_rules(BilinearAttention, TIMM_BILINEAR_ATTENTION, "timm")
