# SPDX-License-Identifier: Apache-2.0
"""The arrays of a model by their dotted names, with what is needed to build it again."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx


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
    model: nnx.Module, tensors: Mapping[str, np.ndarray], *, skip: Sequence[str] = ()
) -> None:
    """Fill ``model``, in place, with arrays by dotted paths, cast to the dtypes of the model.

    ``skip`` names parts of the model (``"head"``) that keep their values; the state of random
    number generators, which a training run saves too, is left alone. Raises ValueError, with every
    fault in it and the model unchanged, if arrays are missing, left over or mis-shaped.
    """
    generators = nnx.to_flat_state(nnx.state(model, nnx.RngState))
    drawn = {".".join(map(str, path)) for path, _ in generators}
    tensors = {name: array for name, array in tensors.items() if name not in drawn}
    graph = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    wanted = {".".join(map(str, path)): (path, variable) for path, variable in graph}

    def skipped(name: str) -> bool:
        return any(name == part or name.startswith(f"{part}.") for part in skip)

    for part in skip:
        if not any(name == part or name.startswith(f"{part}.") for name in wanted):
            raise ValueError(f"skip={part!r} names no part of {type(model).__name__}")
    faults = [f"missing: {name}" for name in wanted if name not in tensors and not skipped(name)]
    faults += [f"unexpected: {n}" for n in tensors if n not in wanted and not skipped(n)]
    faults += [
        f"shape: {name} is {list(np.shape(tensors[name]))}; the model needs {list(variable.shape)}"
        for name, (_, variable) in wanted.items()
        if name in tensors and not skipped(name) and np.shape(tensors[name]) != variable.shape
    ]
    if faults:
        told = "\n".join(f"  {fault}" for fault in faults)
        raise ValueError(f"the weights do not fit this {type(model).__name__}:\n{told}")
    values = [
        (path, variable.replace(jnp.asarray(tensors[name], variable.dtype)))
        for name, (path, variable) in wanted.items()
        if not skipped(name)
    ]
    nnx.update(model, nnx.from_flat_state(values))


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
