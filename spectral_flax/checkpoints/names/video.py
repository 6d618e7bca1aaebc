# SPDX-License-Identifier: Apache-2.0
"""Names of video networks in PyTorchVideo and in PySlowFast; those of BAT video are ResNet's.

Both pad the pooling after the stem: load their weights into models with ``stem_margin=1``.
"""

import functools

from flax import nnx

from spectral_flax.checkpoints.names.resnet import inserted_rules
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules
from spectral_flax.layers.non_local import NonLocal
from spectral_flax.models.resnet import ResNet

_BRANCHES = {"1": "a", "2": "b", "3": "c"}

PYTORCHVIDEO_BLOCK = [
    Rule(r"shortcut\.conv", "branch1_conv"),
    Rule(r"shortcut\.norm", "branch1_norm"),
    *(Rule(rf"conv{i}\.conv", f"branch2.conv_{b}") for i, b in _BRANCHES.items()),
    *(Rule(rf"conv{i}\.norm", f"branch2.norm_{b}") for i, b in _BRANCHES.items()),
]

SLOWFAST_BLOCK = [
    Rule(r"shortcut\.conv", "branch1"),
    Rule(r"shortcut\.norm", "branch1_bn"),
    *(Rule(rf"conv{i}\.conv", f"branch2.{b}") for i, b in _BRANCHES.items()),
    *(Rule(rf"conv{i}\.norm", f"branch2.{b}_bn") for i, b in _BRANCHES.items()),
]

SLOWFAST_NON_LOCAL = [
    Rule("query", "conv_theta"),
    Rule("key", "conv_phi"),
    Rule("value", "conv_g"),
    Rule("expand", "conv_out"),
    Rule("norm", "bn"),
]


def _rules(stem, norm, block, block_name, inserted_name, head, first, model: nnx.Module):
    """Return the rules of a video network; names are filled in with the stage's own number."""
    if model.rank != 3:
        return []
    rules = [Rule(r"stem\.conv", f"{stem}.conv"), Rule(r"stem\.norm", f"{stem}.{norm}")]
    for stage in range(1, len(model.depths) + 1):
        name = block_name.format(first[stage - 1])
        rules += nested(block, rf"stage{stage}\.(?P<block>\d+)", name + "{block}")
        path = rf"inserted\.stage{stage}_(?P<block>\d+)"
        name = inserted_name.format(first[stage - 1])
        rules += inserted_rules(model, ("SlowFast", "BAT video"), path, name + "{block}")
    return [*rules, Rule("head", head)]


# PyTorchVideo counts the pooling of frames after the first stage as a stage.
_PYTORCHVIDEO = ("blocks.{}.res_blocks.", "blocks.{}.nonlocal.", "blocks.6.proj", (1, 3, 4, 5))
_SLOWFAST = ("s{}.pathway0_res", "s{}.pathway0_nonlocal", "head.projection", (2, 3, 4, 5))

register_rules(NonLocal, SLOWFAST_NON_LOCAL, "SlowFast")
register_rules(
    ResNet,
    functools.partial(_rules, "blocks.0", "norm", PYTORCHVIDEO_BLOCK, *_PYTORCHVIDEO),
    "PyTorchVideo",
)
register_rules(
    ResNet,
    functools.partial(_rules, "s1.pathway0_stem", "bn", SLOWFAST_BLOCK, *_SLOWFAST),
    "SlowFast",
)
