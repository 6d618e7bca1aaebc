# SPDX-License-Identifier: Apache-2.0
"""Names of the published LaMa code: generator and discriminator, alone or in a Lightning file."""

import functools

from spectral_flax.checkpoints.names.resnet import FFC_NORM_ACT
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules, tables_for
from spectral_flax.models.inpainting import Lama, PatchDiscriminator


def _generator(model: Lama, prefix: str = "") -> list[Rule]:
    """Positions in the published sequence, which also counts paddings, concatenation and ReLUs."""
    place = lambda i: f"{prefix}model.{i}"
    rules = nested(FFC_NORM_ACT, "stem", place(1))
    position = 2
    for i in range(len(model.down)):
        rules += nested(FFC_NORM_ACT, rf"down\.{i}", place(position))
        position += 1
    for i in range(len(model.blocks)):
        path, name = rf"blocks\.{i}\.(?P<conv>conv\d)", f"{place(position)}.{{conv}}"
        rules += nested(FFC_NORM_ACT, path, name)
        position += 1
    position += 1  # the two paths are joined
    for i in range(len(model.up)):
        rules.append(Rule(rf"up\.{i}\.conv", place(position)))
        rules.append(Rule(rf"up\.{i}\.norm", place(position + 1)))
        position += 3
    return [*rules, Rule(r"head\.to_local", place(position + 1))]


def _discriminator(model: PatchDiscriminator, prefix: str = "") -> list[Rule]:
    rules = [Rule("first", f"{prefix}model0.0")]
    for i in range(len(model.blocks)):
        rules.append(Rule(rf"blocks\.{i}\.conv", f"{prefix}model{i + 1}.0"))
        rules.append(Rule(rf"blocks\.{i}\.norm", f"{prefix}model{i + 1}.1"))
    return [*rules, Rule("last", f"{prefix}model{len(model.blocks) + 1}.0")]


def training_rules(model, prefix: str = "generator") -> list[Rule]:
    """Return the rules of a generator and a discriminator side by side, as a run trains them."""
    _, generator = tables_for(model.generator)[0]
    return [
        *nested(generator, "generator", prefix),
        *nested(_discriminator(model.discriminator), "discriminator", "discriminator"),
    ]


for _class, _rules, _part in (
    (Lama, _generator, "generator"),
    (PatchDiscriminator, _discriminator, "discriminator"),
):
    register_rules(_class, _rules, "LaMa")
    register_rules(
        _class,
        functools.partial(_rules, prefix=f"{_part}."),
        "LaMa training",
        ignored=rf"(?!{_part}\.).*",
    )
