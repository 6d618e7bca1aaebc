# SPDX-License-Identifier: Apache-2.0
"""`Weights`: arrays by name with the record of their model; assignment to a model."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.faults import CheckpointError, first_names, misfits
from spectral_flax.checkpoints.parts import (
    INSERTED,
    as_parts,
    chosen,
    inserted_in,
    without_inserted,
)
from spectral_flax.checkpoints.prefixes import entries_below, weights_below
from spectral_flax.checkpoints.values import UnfitValueError, converted
from spectral_flax.models.record import UNKNOWN, ModelRecord


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays by name, and the record of the model they belong to.

    ``names`` tells whose names they are: "flax" for the dotted paths of this library's modules
    (``stage1.0.conv1.conv.kernel``), "torch" for those of a published PyTorch model. The record's
    model is None where nothing tells. ``foreign`` are the classes of objects beside the arrays,
    which were left unbuilt.
    """

    tensors: Mapping[str, np.ndarray]
    names: str = "flax"
    record: ModelRecord = UNKNOWN
    foreign: tuple[str, ...] = ()

    @property
    def model(self) -> str | None:
        """The name of the model."""
        return self.record.model

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the model."""
        return self.record.options

    def __post_init__(self) -> None:
        if self.names not in ("flax", "torch"):
            raise ValueError(f"names={self.names!r}; expected 'flax' or 'torch'")


def narrowed(weights: Weights, entry: str | None, source: str | os.PathLike[str]) -> Weights:
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
