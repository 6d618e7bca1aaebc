# SPDX-License-Identifier: Apache-2.0
"""Options that a published file needs and the name of its model does not tell."""

import re
from collections.abc import Mapping
from typing import Any

from spectral_flax.checkpoints.weights import Weights

Shapes = Mapping[str, tuple[int, ...]]


def called_for(name: str, weights: Weights) -> dict[str, Any]:
    """Return the options with which the model ``name`` was published as ``weights`` have it.

    These are the options in which published files of one name differ. A file of another model
    does not fit all the same.
    """
    if weights.names != "torch":
        return {}
    shapes = {entry: tuple(getattr(a, "shape", ())) for entry, a in weights.tensors.items()}
    found: dict[str, Any] = {}
    if re.match(r"(ffc_)?resnet(18|34)(_|$)", name) and projects_first(shapes):
        found["project_first"] = True
    if re.match(r"(ffc_)?resnext101_32x8d(_|$)", name) and _has(shapes, r"layer3\.31\."):
        found["depths"] = (3, 4, 32, 3)
    if name.startswith("pose_") and set(kernels := deconvolution_kernels(shapes)) - {4}:
        found["deconvolution_kernels"] = kernels
    return found


def projects_first(shapes: Shapes) -> bool:
    """Return whether the first block, not of two paths, has a projection of FFC's names."""
    return _has(shapes, r"layer1\.0\.downsample\.ffc\.") and not _has(
        shapes, r"layer1\.0\.conv1\.bn_g\."
    )


def deconvolution_kernels(shapes: Shapes) -> tuple[int, ...]:
    """Return the sides of a pose network's deconvolutions, in order."""
    sides = {}
    for name, shape in shapes.items():
        place = re.search(r"(?:^|\.)deconv_layers\.(\d+)\.weight$", name)
        if place and len(shape) == 4:
            sides[int(place[1])] = shape[-1]
    return tuple(sides[place] for place in sorted(sides))


def _has(shapes: Shapes, pattern: str) -> bool:
    return any(re.search(rf"(?:^|\.){pattern}", name) for name in shapes)
