# SPDX-License-Identifier: Apache-2.0
"""Names of milesial/Pytorch-UNet; inserted blocks, which it lacks, get names of our own."""

from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules, tables_for
from spectral_flax.models.segmentation import UNet

_DOUBLE_CONV = [
    Rule(r"conv1\.conv", "double_conv.0"),
    Rule(r"conv1\.norm", "double_conv.1"),
    Rule(r"conv2\.conv", "double_conv.3"),
    Rule(r"conv2\.norm", "double_conv.4"),
]


def _unet(model: UNet) -> list[Rule]:
    rules = [*nested(_DOUBLE_CONV, r"encoder\.0", "inc"), Rule("head", "outc.conv")]
    for level in range(1, len(model.encoder)):
        rules += nested(_DOUBLE_CONV, rf"encoder\.{level}", f"down{level}.maxpool_conv.1")
    for i in range(len(model.decoder)):  # its up1 is the deepest stage
        rules.append(Rule(rf"decoder\.{i}\.up", f"up{i + 1}.up"))
        rules += nested(_DOUBLE_CONV, rf"decoder\.{i}\.convs", f"up{i + 1}.conv")
    for place, block in model.blocks.items():
        rules += nested(tables_for(block)[0][1], rf"blocks\.{place}", f"block_{place}")
    return rules


register_rules(UNet, _unet, "Pytorch-UNet")
