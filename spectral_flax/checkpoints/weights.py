# SPDX-License-Identifier: Apache-2.0
"""The arrays of a model by their dotted names, with what is needed to build it again."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.faults import CheckpointError, first_names, misfits
from spectral_flax.checkpoints.parts import chosen
from spectral_flax.checkpoints.prefixes import weights_below
from spectral_flax.checkpoints.values import UnfitValueError, converted


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays by name, and the model they belong to where that is known.

    ``names`` tells whose names they are: "flax" for the dotted paths of this library's modules
    (``stage1.0.conv1.conv.kernel``), "torch" for those of a published PyTorch model. ``foreign``
    are the classes of objects beside the arrays, which were left unbuilt.
    """

    tensors: Mapping[str, np.ndarray]
    names: str = "flax"
    model: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    foreign: tuple[str, ...] = ()

    def __post_init__(self):
        if self.names not in ("flax", "torch"):
            raise ValueError(f"names={self.names!r}; expected 'flax' or 'torch'")


def variables(model: nnx.Module) -> dict[str, Any]:
    """Return the parameters and batch statistics of ``model`` by their dotted paths."""
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): variable[...] for path, variable in state}


def assign(
    model: nnx.Module,
    tensors: Mapping[str, Any],
    *,
    skip: str | Iterable[str] = (),
    allow_non_finite: bool = False,
) -> tuple[str, ...]:
    """Fill ``model``, in place, with arrays by dotted paths, converted to the dtypes of the model.

    ``skip`` names parts of the model, by dotted paths or globs, that keep their values; the state
    of random number generators, which a training run saves too, is left alone. A prefix of the
    model's paths is found by itself (``generator.``). Returns the names of entries that are not
    below it, which are left.

    Raises CheckpointError, with every fault in it and the model unchanged, if arrays are missing,
    left over, mis-shaped or of values that do not fit (see `load_torch`).
    """
    graph = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    wanted = {".".join(map(str, path)): (path, variable) for path, variable in graph}
    generators = nnx.to_flat_state(nnx.state(model, nnx.RngState))
    drawn = {".".join(map(str, path)) for path, _ in generators}
    below = weights_below(tensors, [wanted.keys()])
    found = {name: array for name, array in below.tensors.items() if name not in drawn}
    left = chosen(wanted.keys() | found.keys(), skip, of=type(model).__name__)
    expected = {name: v.shape for name, (_, v) in wanted.items() if name not in left}
    faults = misfits(expected, found, left)
    title = f"the weights do not fit this {type(model).__name__}:"
    if faults:
        raise CheckpointError(title, faults, first_names(expected, tensors))
    values = []
    for name in expected:
        path, variable = wanted[name]
        try:
            array = converted(found[name], variable.dtype, allow_non_finite=allow_non_finite)
        except UnfitValueError as error:
            faults.append(f"value: {name} {error}")
        else:
            values.append((path, variable.replace(jnp.asarray(array))))
    if faults:
        raise CheckpointError(title, faults)
    nnx.update(model, nnx.from_flat_state(values))
    return below.beside


def options_to_json(options: Mapping[str, Any]) -> str:
    """Return a model's options as JSON; `options_from_json` gives them back.

    Tuples and lists are one thing, as are dtypes and their names; raises TypeError for values
    without a written form (functions, arrays).
    """
    return json.dumps({name: _plain(name, value) for name, value in options.items()})


def options_from_json(text: str) -> dict[str, Any]:
    """Return the options that `options_to_json` wrote, sequences as tuples."""
    options = json.loads(text)
    if not isinstance(options, dict):
        raise ValueError(f"the options of a model are {text[:60]!r}; expected a JSON object")
    return {name: _rich(value) for name, value in options.items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(name, v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.dtype) or (isinstance(value, type) and hasattr(value, "dtype")):
        return np.dtype(value).name
    if isinstance(value, type(jnp.float32)) or (
        isinstance(value, type) and issubclass(value, np.generic)
    ):
        return jnp.dtype(value).name
    raise TypeError(f"option {name}={value!r} can not be written to a file")


def _rich(value: Any) -> Any:
    if isinstance(value, dict):  # {2: (1, 3)} has whole numbers as keys, which JSON lacks
        number = re.compile(r"-?\d+")
        return {int(k) if number.fullmatch(k) else k: _rich(v) for k, v in value.items()}
    return tuple(map(_rich, value)) if isinstance(value, list) else value
