# SPDX-License-Identifier: Apache-2.0
"""Names of residual video networks of several code bases; those of BAT video are ResNet's.

PyTorchVideo and PySlowFast pad the pooling after the stem: load their weights into models with
``stem_pool_padding=1``.
"""

import dataclasses
from collections.abc import Sequence

from spectral_flax.checkpoints.names.attention import non_local_video
from spectral_flax.checkpoints.names.layouts import Layout
from spectral_flax.checkpoints.names.resnet import Place, stage_rules
from spectral_flax.checkpoints.names.tables import Rule, kept_names, nested, register_rules
from spectral_flax.layers.non_local import NonLocal
from spectral_flax.layers.video_conv import FactorisedConv
from spectral_flax.models.artnet import RelationBlock
from spectral_flax.models.residual import ResidualBlock
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoNames:
    """What the modules of a video network are called in one code base.

    Attributes:
      stem: the stem, in which the normalisation is called ``stem_norm``.
      residual_block: the rules of a residual block.
      stages: ``{stage}`` of each stage.
      residual: a residual block, by ``{stage}`` and its number ``{block}``.
      inserted: an inserted block, by those of the residual block before it.
      head: the linear layer.
    """

    stem: str
    stem_norm: str
    residual_block: Sequence[Rule]
    stages: Sequence[int]
    residual: str
    inserted: str
    head: str

    def block(self, place: Place) -> str:
        name = self.inserted if place.inserted else self.residual
        return name.format(stage=self.stages[place.stage - 1], block=place.residual)

    def rules(self, model: ResNet) -> list[Rule]:
        """Return the rules of a video network; none of an image network."""
        if model.rank != 3 or len(model.stages) > len(self.stages):
            return []
        families = ("SlowFast", "BAT video")
        return [
            Rule(r"stem\.conv", f"{self.stem}.conv"),
            Rule(r"stem\.norm", f"{self.stem}.{self.stem_norm}"),
            *stage_rules(model, self.residual_block, families, self.block),
            Rule("head", self.head),
        ]


PYTORCHVIDEO = VideoNames(
    stem="blocks.0",
    stem_norm="norm",
    residual_block=PYTORCHVIDEO_BLOCK,
    stages=(1, 3, 4, 5),  # the pooling of frames after the first counts as a stage
    residual="blocks.{stage}.res_blocks.{block}",
    inserted="blocks.{stage}.nonlocal.{block}",
    head="blocks.6.proj",
)

SLOWFAST = VideoNames(
    stem="s1.pathway0_stem",
    stem_norm="bn",
    residual_block=SLOWFAST_BLOCK,
    stages=(2, 3, 4, 5),
    residual="s{stage}.pathway0_res{block}",
    inserted="s{stage}.pathway0_nonlocal{block}",
    head="head.projection",
)

register_rules(NonLocal, SLOWFAST_NON_LOCAL, "SlowFast")
register_rules(ResNet, PYTORCHVIDEO.rules, "PyTorchVideo")
register_rules(ResNet, SLOWFAST.rules, "SlowFast")

# A convolution of frames is one of images in the published code: [h, w, I, O] <-> [1, h, w, I, O].
_of_frames = Layout(lambda arrays, _: arrays[0][None], lambda array, _: [array[0]])


def _tsm(model: ResNet) -> list[Rule]:
    """Return the names of temporal-shift-module, of networks that convolve single frames.

    A shift, where there is one, stands around ``conv1``.
    """
    if model.rank != 3 or model.temporal_pool_stride > 1 or model.stem_options.temporal_kernel > 1:
        return []
    rules = [
        Rule(r"stem\.conv", "base_model.conv1", _of_frames),
        Rule(r"stem\.norm", "base_model.bn1"),
        Rule("head", "new_fc"),
    ]
    for stage, blocks in enumerate(model.stages, start=1):
        residual = -1
        for i, block in enumerate(blocks):
            ours = rf"stage{stage}\.{i}"
            inserted = not isinstance(block, ResidualBlock)
            residual += not inserted
            theirs = f"base_model.layer{stage}.{residual}"
            if inserted:
                if not isinstance(block, NonLocal):
                    return []
                rules += nested(non_local_video(block), ours, f"{theirs}.nl")
                continue
            wrapped = i + 1 < len(blocks) and not isinstance(blocks[i + 1], ResidualBlock)
            theirs += ".block" if wrapped else ""
            rules += nested(_shifted(bool(block.temporal_shift)), ours, theirs)
    return rules


def _shifted(shifts: bool) -> list[Rule]:
    return [
        Rule(r"conv1\.conv", "conv1.net" if shifts else "conv1", _of_frames),
        Rule(r"conv(?P<n>\d)\.conv", "conv{n}", _of_frames),
        Rule(r"conv(?P<n>\d)\.norm", "bn{n}"),
        Rule(r"shortcut\.conv", "downsample.0", _of_frames),
        Rule(r"shortcut\.norm", "downsample.1"),
    ]


register_rules(ResNet, _tsm, "TSM")

# torchvision's R(2+1)D, R3D and MC3: a convolution of two steps, or of one.
_STEPS = [
    Rule(r"spatial\.conv", "0"),
    Rule(r"spatial\.norm", "1"),
    Rule("temporal", "3"),
]
R3D_BLOCK = [
    *nested(_STEPS, r"conv(?P<n>\d)\.conv", "conv{n}.0"),
    Rule(r"conv(?P<n>\d)\.conv", "conv{n}.0"),
    Rule(r"conv(?P<n>\d)\.norm", "conv{n}.1"),
    Rule(r"shortcut\.conv", "downsample.0"),
    Rule(r"shortcut\.norm", "downsample.1"),
]


def _r3d(model: ResNet) -> list[Rule]:
    """Return the names of torchvision's video networks."""
    if model.rank != 3:
        return []
    in_steps = isinstance(model.stem.conv, FactorisedConv)
    stem = nested(_STEPS, r"stem\.conv", "stem") if in_steps else [Rule(r"stem\.conv", "stem.0")]
    name = lambda place: f"layer{place.stage}.{'nl' if place.inserted else ''}{place.residual}"
    return [
        *stem,
        Rule(r"stem\.norm", "stem.4" if in_steps else "stem.1"),
        *stage_rules(model, R3D_BLOCK, ("BAT video",), name),
        Rule("head", "fc"),
    ]


_PARTS = (("conv", "conv"), ("norm", "bn"))
GLORE_BLOCK = [
    *(Rule(rf"conv(?P<n>\d)\.{ours}", f"conv_m{{n}}.{theirs}") for ours, theirs in _PARTS),
    *(Rule(rf"shortcut\.{ours}", f"conv_w1.{theirs}") for ours, theirs in _PARTS),
]


def _glore(model: ResNet) -> list[Rule]:
    """Return the names of facebookresearch/GloRe, whose units normalise before they convolve."""
    if model.rank != 3 or model.norm is None:
        return []
    extra = lambda place: "_extra" if place.inserted else ""
    name = lambda place: f"conv{place.stage + 1}.B{place.residual + 1:02}{extra(place)}"
    return [
        Rule(r"stem\.conv", "conv1.conv"),
        Rule(r"stem\.norm", "conv1.bn"),
        *stage_rules(model, GLORE_BLOCK, ("GloRe", "BAT video"), name),
        Rule("norm", "tail.bn"),
        Rule("head", "classifier"),
    ]


def _artnet(model: ResNet) -> list[Rule]:
    """Return names of our own: the published network is not in PyTorch."""
    return kept_names(model) if isinstance(model.stage1[0], RelationBlock) else []


register_rules(ResNet, _r3d, "torchvision video")
register_rules(ResNet, _glore, "GloRe")
register_rules(ResNet, _artnet, "ARTNet")
