# SPDX-License-Identifier: Apache-2.0
"""Diagnosis of a state dict that does not fit: which model its names and shapes are of."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from flax import nnx

from spectral_flax.checkpoints.correspondence import tables_covering
from spectral_flax.checkpoints.variants import Shapes, deconvolution_kernels, projects_first
from spectral_flax.layers.blocks import PUBLISHED, block
from spectral_flax.messages import shown
from spectral_flax.models.image import BACKBONES

# As the published code of FFC has its widest ResNeXt, and as others have it.
WIDEST = {(3, 4, 32, 3): (3, 4, 23, 3)}

# A part of the names of networks other than classifiers, and what they are.
_FAMILIES = {
    # With or without what precedes all names of a generator's file, "generator.model.".
    r"^(.*\bmodel\.)?\d+\.(conv1\.)?ffc\.": "a LaMa generator",
    r"^(deconv_layers|final_layer)\.": "a pose network (ResNet with deconvolutions)",
    r"\.res_blocks\.": "a video network with PyTorchVideo's names",
    r"pathway\d_res": "a video network with SlowFast's names",
    r"^(inc|up\d)\.": "a U-Net",
}

# An option of the models, how the file is said to be, and what to do about it.
_OPTIONS = {
    "lfu": ("{} LFU weights", lambda has: "has" if has else "has no"),
    "se": ("{} squeeze-and-excitation weights", lambda has: "has" if has else "has no"),
    "project_first": (
        "{} a projection in the shortcut of its first block",
        lambda has: "has" if has else "has no",
    ),
    "depths": ("has {} residual blocks", str),
    "deconvolution_kernels": ("has deconvolutions of sides {}", str),
    "ratio": ("has ratio {}", str),
    "width": ("has width {}", str),
    "in_features": ("is for {} input channels", str),
    "num_classes": ("has {}", lambda n: f"a head of {n} classes" if n else "no head"),
    "blocks_at": ("has blocks after {}", str),
    "block_options": ("has blocks with {}", str),
}


def hints(expected: Shapes, found: Shapes) -> list[str]:
    """Return in words what distinguishes the model of a file from ours.

    ``expected`` and ``found`` are names and shapes of our model's state dict and of the file's.
    """
    ours, theirs = _described(expected), _described(found)
    if not theirs:  # of the names alone, which may all fit
        known = 2 * len(expected.keys() & found.keys()) > len(expected)
        return [] if known else ["the file's names are those of no model known here"]
    if ours.get("name") != theirs["name"]:
        like = _with_options(theirs)
        return (
            [f"the file looks like {like}; this model is {ours['name']}"]
            if ours
            else [f"the file looks like {like}"]
        )
    lines = []
    for option, (saying, word) in _OPTIONS.items():
        if ours.get(option) == theirs.get(option):
            continue
        mine, value = ours.get(option), theirs.get(option)
        says = f"the file {saying.format(word(value))}"
        if not isinstance(value, bool):
            says += f", the model {mine}"
        if option == "num_classes":
            advice = f"create the model with num_classes={value}, or load with skip=('head',)"
        else:
            advice = f"create the model with {option}={value!r}"
        lines.append(shown(f"{says}; {advice}", 300))
    return lines


def _described(shapes: Shapes) -> dict[str, Any]:
    """Return what `describe` does; nothing of names with shapes that no network has."""
    try:
        return describe(shapes)
    except (IndexError, ValueError, ZeroDivisionError):
        return {}


def describe(shapes: Shapes) -> dict[str, Any]:
    """Return the model a state dict seems to be of, and its options; empty if none is known."""
    for pattern, family in _FAMILIES.items():
        if any(re.search(pattern, name) for name in shapes):
            return {"name": family, "deconvolution_kernels": deconvolution_kernels(shapes)}
    stem = shapes.get("conv1.weight")
    depths = _depths(shapes)
    if stem is None or not depths or len(stem) not in (4, 5):
        return {}
    ffc = any(".ffc." in name for name in shapes)
    bottleneck = any(re.fullmatch(r"layer1\.0\.conv3\..*weight", name) for name in shapes)
    blocks = _inserted(shapes)
    video = len(stem) == 5 and ("i3d" if stem[2] > 1 else "c2d")
    backbone = _backbone(shapes, depths, bottleneck)
    kind = _kind_of_block(shapes, rank=len(stem) - 2) if blocks else None
    facts: dict[str, Any] = {
        "name": "_".join(filter(None, ("ffc" if ffc else "", video, backbone, kind))),
        "width": stem[0],
        "in_features": stem[1],
        "num_classes": shapes["fc.weight"][0] if "fc.weight" in shapes else None,
        "se": any(".se.fc." in name or ".se_block." in name for name in shapes),
        "depths": depths,
        "project_first": projects_first(shapes),
        "blocks_at": blocks,
        "block_options": _bilinear_options(shapes),
    }
    if ffc:
        split = [shapes.get(f"layer1.0.conv1.bn_{path}.weight", (0,))[0] for path in "lg"]
        facts["ratio"] = split[1] / max(sum(split), 1)
        facts["lfu"] = any(".lfu." in name for name in shapes)
    return facts


def _with_options(facts: Mapping[str, Any]) -> str:
    lfu = {None: [], True: ["LFU"], False: ["no LFU"]}[facts.get("lfu")]
    said = ([f"ratio {facts['ratio']}"] if "ratio" in facts else []) + lfu
    return facts["name"] + (f" ({', '.join(said)})" if said else "")


def _depths(shapes: Iterable[str]) -> tuple[int, ...]:
    found: dict[int, int] = {}
    for name in shapes:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            stage, block = map(int, match.groups())
            found[stage] = max(found.get(stage, 0), block + 1)
    return tuple(found[stage] for stage in sorted(found))


def _backbone(shapes: Shapes, depths: tuple[int, ...], bottleneck: bool) -> str:
    groups, width = _grouped(shapes) if bottleneck else (1, 0)
    grouped = {}
    if groups > 1:
        grouped = dict(
            groups=groups, width_per_group=width * 64 // shapes["conv1.weight"][0] // groups
        )
    for name, (published, kind) in BACKBONES.items():
        same = bottleneck == kind.get("bottleneck", True)
        if same and grouped.items() <= kind.items() and WIDEST.get(depths, depths) == published:
            return name
    return f"a ResNet of {depths} blocks"


def _grouped(shapes: Shapes) -> tuple[int, int]:
    """Return groups of the 3x3 convolutions and their width in the first stage."""
    stage = len(_depths(shapes))
    for path in "", "ffc.convl2l.":  # the last stage of an FFC network is all local
        if (name := f"layer{stage}.0.conv2.{path}weight") in shapes:
            outputs, inputs = shapes[name][:2]
            return outputs // inputs, outputs // 2 ** (stage - 1)
    return 1, 0


def _inserted(shapes: Iterable[str]) -> dict[int, tuple[int, ...]]:
    places: dict[int, set[int]] = {}
    for name in shapes:
        if match := re.match(r"layer(\d+)\.nl(\d+)\.", name):
            places.setdefault(int(match[1]), set()).add(int(match[2]))
    return {stage: tuple(sorted(places[stage])) for stage in sorted(places)}


def _kind_of_block(shapes: Iterable[str], rank: int) -> str | None:
    """Return the block whose names fit those of the inserted blocks best."""
    places = re.compile(r"layer\d+\.nl\d+\.(.*)")
    inside = {match[1] for match in map(places.fullmatch, shapes) if match}
    best, least = None, len(inside)
    for name in PUBLISHED:
        make = lambda name: block(name, 64, rank=rank, size=(8, 8), rngs=nnx.Rngs(0))
        try:
            tables = tables_covering(nnx.eval_shape(functools.partial(make, name)))
        except ValueError:  # a block for videos alone
            continue
        misfit = min(len(table.shapes.keys() ^ inside) for table in tables)
        if misfit < least:
            best, least = name, misfit
    return best


def _bilinear_options(shapes: Shapes) -> dict[str, int]:
    """Return the grid and groups of bilinear attention, which its row kernel tells."""
    for name, shape in shapes.items():
        if name.endswith("batransform.conv_p.weight"):
            return {"grid": shape[-2], "groups": shape[1]}
    return {}
