# SPDX-License-Identifier: Apache-2.0
"""Names of a deformable convolution beside its auxiliary one, as in the use of torchvision's."""

from spectral_flax.checkpoints.names.tables import Rule, register_rules
from spectral_flax.layers.deformable import DeformableConv

DEFORMABLE_CONV = [
    Rule("offset", "offset"),
    Rule("kernel", "conv.weight"),
    Rule("bias", "conv.bias"),
]

register_rules(DeformableConv, DEFORMABLE_CONV, "torchvision")
