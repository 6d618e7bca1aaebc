# SPDX-License-Identifier: Apache-2.0
"""Names of the published pose networks: SimpleBaseline, and with blocks SRL's."""

from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules, tables_for
from spectral_flax.models.pose import PoseResNet


def _pose(model: PoseResNet) -> list[Rule]:
    """Return the rules; each inserted block shifts the positions behind it by one."""
    rules = nested(dict(tables_for(model.encoder))["torchvision"], "encoder", "")
    position = 0
    for i in range(len(model.deconvolutions)):
        place = "deconv_layers.{}".format
        rules.append(Rule(rf"deconvolutions\.{i}\.conv", place(position)))
        rules.append(Rule(rf"deconvolutions\.{i}\.norm", place(position + 1)))
        position += 3
        if str(i) in model.blocks:
            tables = dict(tables_for(model.blocks[str(i)]))
            table = tables.get("SRL") or next(iter(tables.values()))
            rules += nested(table, rf"blocks\.{i}", place(position))
            position += 1
    return [*rules, Rule("head", "final_layer")]


register_rules(PoseResNet, _pose, "SimpleBaseline")
