# SPDX-License-Identifier: Apache-2.0
"""What a state dict seems to be of, told from its names and shapes alone."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from spectral_flax.checkpoints.variants import Shapes, deconvolution_kernels, projects_first
from spectral_flax.messages import shown

# A part of a name that only one family of files has, and what that family is.
_FAMILIES = {
    r"inception\d": "googlenet",
    r"conv_(h2h|h2l|l2h|l2l)\b": "an octave ResNet",
    # With or without what precedes all names of a generator's file, "generator.model.".
    r"^(.*\bmodel\.)?\d+\.(conv1\.)?ffc\.": "a LaMa generator",
    r"^classifier\.0\.convs\.": "a DeepLabV3",
    r"^(deconv_layers|final_layer)\.": "a pose network (ResNet with deconvolutions)",
    r"^base_model\.|\.conv1\.net\.|^new_fc\.": "a temporal shift network (tsm_)",
    r"\.res_blocks\.": "a video network with PyTorchVideo's names",
    r"pathway\d_res": "a video network with SlowFast's names",
    r"^stages\.\d+\.\d+\.conv1_1x1": "a timm ByobNet",
    r"^blob_names|_bn_riv": "a Caffe2 network",
    r"^layer1\.0\.conv1\.0\.": "a (2+1)-D or 3-D ResNet of torchvision (r2plus1d_, r3d_)",
    r"^features\.0\.0\.": "s3d, or another network in one sequence",
    r"^(inc|up\d)\.": "a U-Net",
    r"complex_weight|weights1|fourier_weight": "a Fourier operator or filter network",
}

# A part of the names of an inserted block, and the block; the first that occurs.
_BLOCKS = {
    "batransform.conv_t": "bat3d",
    "batransform": "bat",
    "gn.": "cgnl",
    "convA": "a2",
    "cca.": "rcca",
    "conv_state": "glore",
    "source_P": "srl_lo",
    "conv_layer": "srl_fft",
    "theta": "nl",
    "t.weight": "nl",
}

_DEPTHS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((2, 2, 2, 2), True): "resnet26",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 4, 32, 3), True): "resnet101",  # as the published code of FFC has its widest
    ((3, 8, 36, 3), True): "resnet152",
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
    if stem is None or not depths or len(stem) < 4:
        return {}
    ffc = any(".ffc." in name for name in shapes)
    bottleneck = any(re.fullmatch(r"layer1\.0\.conv3\..*weight", name) for name in shapes)
    blocks = _inserted(shapes)
    backbone = _DEPTHS.get((depths, bottleneck), f"a ResNet of {depths} blocks")
    groups, width = _grouped(shapes)
    if bottleneck and groups > 1:
        per_group = width * 64 // stem[0] // groups
        backbone = f"{backbone.replace('resnet', 'resnext')}_{groups}x{per_group}d"
    video = len(stem) == 5 and ("i3d" if stem[2] > 1 else "c2d")
    kind = _kind_of_block(shapes) if blocks else None
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


def _kind_of_block(shapes: Iterable[str]) -> str | None:
    inside = [re.sub(r"^layer\d+\.nl\d+\.", "", n) for n in shapes if re.match(r"layer\d+\.nl", n)]
    kinds = (k for part, k in _BLOCKS.items() if any(n.startswith(part) for n in inside))
    return next(kinds, None)


def _bilinear_options(shapes: Shapes) -> dict[str, int]:
    """Return the grid and groups of bilinear attention, which its row kernel tells."""
    for name, shape in shapes.items():
        if name.endswith("batransform.conv_p.weight"):
            return {"grid": shape[-2], "groups": shape[1]}
    return {}
