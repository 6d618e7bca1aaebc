# SPDX-License-Identifier: Apache-2.0
"""Names of the published attention blocks.

Non-local blocks have those of SRL-Pose-Estimation and BAT-Image-Classification ("SRL"), of
BAT-Video-Classification ("BAT video") and of timm; the others those of SRL-Pose-Estimation and,
for the graph unit, of facebookresearch/GloRe.
"""

from spectral_flax.checkpoints.names.layouts import Layout, single
from spectral_flax.checkpoints.names.tables import Rule, nested, register_rules
from spectral_flax.layers.attention import (
    CrissCrossAttention,
    DoubleAttention,
    GraphReasoning,
    RecurrentCrissCross,
)
from spectral_flax.layers.non_local import CompactNonLocal, NonLocal

# [1] <-> []
scalar = single(lambda a: a.reshape(()), lambda a: a.reshape(1))

# [1, 2C, 1, 1] <-> (1, ..., 1, 2C, 1): published as a convolution over pairs of positions, which
# is two-dimensional for videos too.
_pairs = Layout(
    lambda arrays, conv: arrays[0].reshape((1,) * len(conv.kernel_size) + (-1, 1)),
    lambda array, _: [array.reshape(1, -1, 1, 1)],
)

# A linear form of concatenated queries and keys has no published weights; the name is that of
# the usual PyTorch code.
_SCORE = Rule(r"score\.kernel", "concat_project.0.weight", _pairs)


def _letters(norm):
    layers = dict(query="t", key="p", value="g", expand="z", norm=norm)
    return [Rule(ours, theirs) for ours, theirs in layers.items()]


def non_local_video(block: NonLocal) -> list[Rule]:
    """Return the names of BAT video, where pooling stands before a convolution, or of TSM."""
    second = (".0" if block.pool_projected else ".1") if block.sub_sample else ""
    return [
        Rule("query", "theta"),
        Rule("key", f"phi{second}"),
        Rule("value", f"g{second}"),
        Rule("expand", "W.0"),
        Rule("norm", "W.1"),
        _SCORE,
    ]


NON_LOCAL = [*_letters("bn"), _SCORE]
NON_LOCAL_TIMM = [*_letters("norm"), _SCORE]
COMPACT_NON_LOCAL = _letters("gn")

DOUBLE_ATTENTION = [
    Rule("feature", "convA"),
    Rule("gather", "convB"),
    Rule("distribution", "convV"),
    Rule("expand", "conv_expand"),
    Rule("norm", "bn"),
]

CRISS_CROSS = [
    Rule("query", "query_conv"),
    Rule("key", "key_conv"),
    Rule("value", "value_conv"),
    Rule("gamma", "gamma", scalar),
]

_CONV_NORM = [Rule("conv", "0"), Rule("norm", "1")]

RECURRENT_CRISS_CROSS = [
    *nested(_CONV_NORM, "reduce", "conva"),
    *nested(CRISS_CROSS, "attention", "cca"),
    *nested(_CONV_NORM, "expand", "convb"),
]

GRAPH_REASONING = [
    Rule("state", "conv_state"),
    Rule("projection", "conv_proj"),
    Rule("mix_nodes", "gcn.conv1"),
    Rule("mix_states", "gcn.conv2"),
    Rule("expand", "conv_extend"),
    Rule("norm", "blocker"),
]

register_rules(NonLocal, NON_LOCAL, "SRL")
register_rules(NonLocal, non_local_video, "BAT video")
register_rules(NonLocal, NON_LOCAL_TIMM, "timm")
register_rules(DoubleAttention, DOUBLE_ATTENTION, "SRL")
register_rules(CompactNonLocal, COMPACT_NON_LOCAL, "SRL")
register_rules(CrissCrossAttention, CRISS_CROSS, "CCNet")
register_rules(RecurrentCrissCross, RECURRENT_CRISS_CROSS, "SRL")
register_rules(GraphReasoning, GRAPH_REASONING, "GloRe")
