# SPDX-License-Identifier: Apache-2.0
"""Orbax checkpoints as plain dictionaries of arrays by dotted names."""

import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from spectral_flax.checkpoints.weights import Weights, options_from_json, options_to_json

ITEM = "variables"
_ABOUT = "about"
_NUMPY = ocp.RestoreArgs(restore_type=np.ndarray)


def write_orbax(path: str | os.PathLike, weights: Weights) -> None:
    """Write the arrays to the new directory ``path``, with model, options and checksums.

    Raises ValueError if the directory exists. Arrays of JAX are written by the device that has
    them, each process its part.
    """
    path = pathlib.Path(path).absolute()
    about = {
        "names": weights.names,
        "model": weights.model,
        "options": options_to_json(weights.options),
        "crc32": {name: _checksum(array) for name, array in weights.tensors.items()},
    }
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        items = {
            ITEM: ocp.args.StandardSave(dict(weights.tensors)),
            _ABOUT: ocp.args.JsonSave(about),
        }
        checkpointer.save(path, args=ocp.args.Composite(**items))


def read_orbax(path: str | os.PathLike) -> Weights:
    """Return the arrays in the directory ``path`` as NumPy arrays.

    Understands what `write_orbax` wrote, which is verified by its checksums, one step of a
    training run, and a directory that holds a nested dictionary of arrays (or a state of Flax),
    whose keys are joined by dots.
    Raises ValueError, naming the directory, for anything else.
    """
    path = pathlib.Path(path).absolute()
    about: dict[str, Any] = {}
    if (path / _ABOUT).is_dir():
        try:
            about = json.loads((path / _ABOUT / "metadata").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    # A training run keeps parameters and the rest (batch statistics) apart.
    places = [path / item for item in (ITEM, "params", "rest") if (path / item).is_dir()] or [path]
    if not (places[0] / "_METADATA").is_file():
        raise ValueError(f"{path} is not the directory of an Orbax checkpoint")
    tensors: dict[str, np.ndarray] = {}
    try:
        for place in places:
            tensors |= _flatten(_restore(place))
    except Exception as error:  # Orbax has no class of its own for damage
        raise ValueError(f"{path} can not be read as an Orbax checkpoint: {error}") from error
    for name, checksum in about.get("crc32", {}).items():
        if name not in tensors or _checksum(tensors[name]) != checksum:
            raise ValueError(f"{path} is damaged: {name!r} is not what was written")
    return Weights(
        tensors=tensors,
        names=about.get("names", "flax"),
        model=about.get("model"),
        options=options_from_json(about.get("options", "{}")),
    )


def _restore(place: pathlib.Path) -> dict:
    handler = ocp.PyTreeCheckpointHandler()
    # As NumPy arrays: the devices they were saved from need not exist here.
    to_numpy = jax.tree.map(lambda _: _NUMPY, handler.metadata(place).tree)
    return handler.restore(place, args=ocp.args.PyTreeRestore(restore_args=to_numpy))


def _flatten(tree: Any, prefix: str = ""):
    """Yield dotted names and arrays; a variable of Flax is saved as the entry ``value``."""
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from _flatten(value, name)
        else:
            yield (prefix if key == "value" and prefix else name), np.asarray(value)


def _checksum(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
