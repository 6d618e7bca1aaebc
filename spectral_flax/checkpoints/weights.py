# SPDX-License-Identifier: Apache-2.0
"""`Weights`: arrays by name with the model and options they belong to; assignment to a model."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.earlier import current_options
from spectral_flax.checkpoints.faults import CheckpointError, first_names, misfits
from spectral_flax.checkpoints.json_text import parse_json
from spectral_flax.checkpoints.parts import (
    INSERTED,
    as_parts,
    chosen,
    inserted_in,
    without_inserted,
)
from spectral_flax.checkpoints.prefixes import entries_below, weights_below
from spectral_flax.checkpoints.values import UnfitValueError, converted
from spectral_flax.messages import quoted, shown

MAX_DEPTH = 16  # of a model's options


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


def narrowed(weights: Weights, entry: str | None, source: str | os.PathLike) -> Weights:
    """Return the weights whose names begin with ``entry`` and a dot, without these.

    Raises ValueError, naming the ``source``, if there are none.
    """
    if not entry:
        return weights
    try:
        return dataclasses.replace(weights, tensors=entries_below(weights.tensors, entry))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


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
    parts = as_parts(skip)
    if INSERTED in parts and (inserted_in(wanted) or inserted_in(tensors)):
        parts = tuple(part for part in parts if part != INSERTED)
        wanted, tensors = without_inserted(wanted), without_inserted(tensors)
    below = weights_below(tensors, [wanted.keys()])
    found = {name: array for name, array in below.tensors.items() if name not in drawn}
    left = chosen(wanted.keys() | found.keys(), parts, of=type(model).__name__)
    expected = {name: v.shape for name, (_, v) in wanted.items() if name not in left}
    faults = misfits(expected, found, left, shapes=False)
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
    """Return the options that `options_to_json` wrote, sequences as tuples.

    Raises ValueError for anything else.
    """
    if not isinstance(text, str):
        raise ValueError(f"the options of a model are {shown(text)}; expected them as text")
    return _options(parse_json(text))


def model_and_options(record: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a model and its options, as a file's ``record`` tells them.

    Raises ValueError if one is missing or of another type.
    """
    for name, kind in (("model", str), ("options", Mapping)):
        value = record.get(name) if isinstance(record, Mapping) else None
        if not isinstance(value, kind):
            raise ValueError(f"its {name!r} is {shown(value)}; expected {_KINDS[name]}")
    return checked_name(record["model"]), _options(record["options"])


_KINDS = {"model": "the name of a model", "options": "an object"}


def checked_name(name: Any) -> str | None:
    """Return the name of a model that a file tells, or None; ValueError if it can be none."""
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]{0,99}", name)):
        raise ValueError(f"its model is {quoted(name)}; expected the name of a model")
    return name


def _options(found: Any) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise ValueError(f"the options of a model are {shown(found)}; expected a JSON object")
    for name in found:
        if not (name.isidentifier() and len(name) < 100):
            raise ValueError(f"an option is called {quoted(name)}")
    return current_options({name: _rich(value) for name, value in found.items()})


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
    how = "; register_block and register_model give functions a name" if callable(value) else ""
    raise TypeError(f"option {name}={value!r} can not be written to a file{how}")


def _rich(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"the options of a model are nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):  # {2: (1, 3)} has whole numbers as keys, which JSON lacks
        number = re.compile(r"0|-?[1-9]\d{0,8}")
        return {int(k) if number.fullmatch(k) else k: _rich(v, depth + 1) for k, v in value.items()}
    return tuple(_rich(v, depth + 1) for v in value) if isinstance(value, list) else value
