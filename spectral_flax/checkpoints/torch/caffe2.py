# SPDX-License-Identifier: Apache-2.0
"""Blobs of Caffe2, as PySlowFast's model zoo keeps them, under PySlowFast's PyTorch names."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from spectral_flax.checkpoints.torch import numpy_values
from spectral_flax.messages import shown

BLOBS = "blobs"
# Of training, not of the model.
_TRAINING = re.compile(r"(.*_momentum|lr|model_iter)")
_RESIDUAL = r"res(?P<stage>\d)_(?P<block>\d+)_branch(?P<branch>\d)(?P<part>[a-z]?)"
_NON_LOCAL = r"nonlocal_conv(?P<stage>\d)_(?P<block>\d+)_(?P<part>theta|phi|g|out|bn)"
_LEAVES = {
    "w": "weight",
    "b": "bias",
    "bn_s": "weight",
    "bn_b": "bias",
    "bn_rm": "running_mean",
    "bn_riv": "running_var",
}
_LEAF = rf"_(?P<leaf>{'|'.join(sorted(_LEAVES, key=len, reverse=True))})"


def is_blobs(root: Any) -> bool:
    """Return whether the content of a pickle is a dictionary of blobs."""
    return isinstance(root, dict) and isinstance(root.get(BLOBS), dict)


def check(root: dict) -> None:
    """Refuse blobs that are anything but arrays, and anything beside them but texts and numbers.

    Raises:
      ValueError: there is something else; it is named.
    """
    for name, value in root[BLOBS].items():
        if not isinstance(name, str) or not numpy_values.is_array(value):
            kind = getattr(value, "name", type(value).__name__)
            raise ValueError(
                f"its blob {shown(name)} is {shown(kind)}; expected arrays and their names alone"
            )
    for name, value in root.items():
        if name != BLOBS and not isinstance(value, str | bytes | int | float | None):
            kind = getattr(value, "name", type(value).__name__)
            raise ValueError(f"beside its blobs it has {shown(name)}, which is {shown(kind)}")


def torch_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return blobs by the names that PySlowFast gives them in PyTorch, without those of training.

    A blob of another network keeps its name. The linear layer, a convolution there, loses its axes
    of length one.
    """
    renamed = {}
    for name, array in arrays.items():
        if _TRAINING.fullmatch(name):
            continue
        name = _torch_name(name)
        if name == "head.projection.weight":
            array = array.reshape(array.shape[:2])
        elif array.ndim > 1:  # axes of length one at the end may be left out
            array = array.reshape(*array.shape, *(1,) * (5 - array.ndim))
        renamed[name] = array
    return renamed


def _torch_name(name: str) -> str:
    if match := re.fullmatch(rf"(?:res_)?conv1{_LEAF}", name):
        norm = match["leaf"].startswith("bn")
        return f"s1.pathway0_stem.{'bn' if norm else 'conv'}.{_LEAVES[match['leaf']]}"
    if match := re.fullmatch(rf"pred{_LEAF}", name):
        return f"head.projection.{_LEAVES[match['leaf']]}"
    if match := re.fullmatch(_RESIDUAL + _LEAF, name):
        part = f".{match['part']}" if match["part"] else ""
        norm = "_bn" if match["leaf"].startswith("bn") else ""
        where = f"s{match['stage']}.pathway0_res{match['block']}.branch{match['branch']}"
        return f"{where}{part}{norm}.{_LEAVES[match['leaf']]}"
    if match := re.fullmatch(_NON_LOCAL + r"_(?P<leaf>w|b|s|rm|riv)", name):
        part, leaf = match["part"], match["leaf"]
        where = f"s{match['stage']}.pathway0_nonlocal{match['block']}"
        if part == "bn":
            return f"{where}.bn.{_LEAVES[f'bn_{leaf}']}"
        return f"{where}.conv_{part}.{_LEAVES[leaf]}"
    return name
