# SPDX-License-Identifier: Apache-2.0
"""`load_torch` and `save_torch`: models filled from PyTorch state dicts, and back, strictly."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax import buckets
from spectral_flax.checkpoints.correspondence import Entry, Table, shapes_of, tables_covering
from spectral_flax.checkpoints.diagnosis import hints
from spectral_flax.checkpoints.entries import weights_in
from spectral_flax.checkpoints.faults import CheckpointError, first_names, misfits, shape_of
from spectral_flax.checkpoints.parts import INSERTED, as_parts, chosen, covers, inserted_in
from spectral_flax.checkpoints.prefixes import Below, weights_below
from spectral_flax.checkpoints.torch.reader import read_torch
from spectral_flax.checkpoints.values import UnfitValueError, converted
from spectral_flax.files import any_path
from spectral_flax.messages import quoted, several


@dataclasses.dataclass(frozen=True)
class Report:
    """What `load_torch` did: entries used, entries ignored, and our arrays left as they were.

    ``foreign`` names the classes of objects in the file that are no tensors; none was built.
    """

    family: str
    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    skipped: tuple[str, ...]
    foreign: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"loaded {len(self.loaded)} entries ({self.family} names)"
        for what, names in (
            ("ignored", self.ignored),
            ("left as they were", self.skipped),
            ("objects not built", self.foreign),
        ):
            if names:
                text += f"; {what}: {', '.join(names)}"
        return text


def load_torch(
    model: nnx.Module,
    source: Mapping[str, Any] | str | os.PathLike[str],
    *,
    skip: str | Iterable[str] = (),
    entry: str | None = None,
    allow_non_finite: bool = False,
) -> Report:
    """Fill ``model``, in place, from a state dict under the published PyTorch names.

    ``source`` is a mapping of names to arrays, which may be nested as training programs save it,
    or the path of a file; ``entry`` says which set of weights, where there are several. Every
    array of the model must be found, with its shape, and every entry be used, or nothing is
    changed. A prefix of the model's names is found by itself; entries that lack it belong to
    other modules, and are left and reported.

    ``skip`` names parts of our model that keep their values, or are not there, whatever the file
    holds for them: dotted paths or globs, of which each covers all below it (``"head"``).
    Arrays are converted to the dtype of the model's.

    Raises:
      CheckpointError: entries are missing, left over or of the wrong shape; or they are complex,
        beyond the range of the model's dtype, or NaN or infinite without ``allow_non_finite``.
    """
    mapping, foreign = _read(source, entry)
    table, below = _chosen_table(tables_covering(model), mapping)
    wanted, left = _split(table, below.tensors, skip, type(model).__name__)
    _check_names(model, table, wanted, left, below, mapping)
    for item, value in _values(model, table, wanted, below, allow_non_finite):
        item.variable.set_value(value)  # not by item: an abstract model has no items
    used = tuple(n for e in table.entries for n in e.names if n in below.tensors)
    ignored = (*sorted(below.tensors.keys() - set(used)), *below.beside)
    skipped = tuple(e.path for e in table.entries if e not in wanted)
    return Report(table.family, used, ignored, skipped, foreign)


def save_torch(
    model: nnx.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    family: str | None = None,
    overwrite: bool = False,
) -> dict[str, np.ndarray]:
    """Return the state dict of ``model`` under the published PyTorch names.

    With a ``path`` it is also written there, as a file for ``torch.load``; what is there is
    replaced with ``overwrite`` only. ``family`` chooses among several published ways to name one
    architecture; None is the first.
    """
    tables = {table.family: table.entries for table in tables_covering(model)}
    family = next(iter(tables)) if family is None else family
    if family not in tables:
        raise ValueError(f"family={family!r}; expected one of {', '.join(tables)}")
    state: dict[str, np.ndarray] = {}
    for entry in tables[family]:
        state |= entry.to_torch()
    counters = [n.removesuffix("running_var") for n in state if n.endswith("running_var")]
    state |= {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in counters}
    if path is not None:
        from spectral_flax.checkpoints.torch.writer import write_torch

        write_torch(path, state, overwrite=overwrite)
    return state


def _read(source, entry: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    if isinstance(source, Mapping):
        return weights_in(source, entry), ()
    with buckets.local_copy(any_path(source, "source")) as path:
        file = read_torch(path, entry=entry)
    return file.tensors, tuple(file.foreign)


def _chosen_table(tables: Sequence[Table], mapping) -> tuple[Table, Below]:
    """Return the table that fits best, and the entries of a file below the prefix of all."""
    below = weights_below(mapping, [table.shapes.keys() for table in tables])
    return min(tables, key=lambda table: table.misfit(below.tensors)), below


def _split(
    table: Table, mapping: Mapping[str, Any], skip: str | Iterable[str], model: str
) -> tuple[list[Entry], set[str]]:
    """Return the entries to be loaded, and the names in the file to be left.

    A file may have a part that the model was built without (num_classes=None): the rules tell its
    names. A part that names nothing of the model may name entries of the file.
    """
    entries = table.entries
    parts = _with_inserted(as_parts(skip), [e.path for e in entries])
    rules = {re.sub(r"\\(?=\.)", "", rule.path): rule for rule in table.rules}
    paths = rules.keys() | {e.path for e in entries}
    theirs = [part for part in parts if not any(covers(part, path) for path in paths)]
    if theirs and not any(covers(part, name) for part in theirs for name in mapping):
        chosen([e.path for e in entries], theirs, of=model)  # says which parts there are
    left = chosen(mapping, theirs, of=model)
    skipped = {e.path for e in entries if any(covers(part, e.path) for part in parts)}
    skipped |= {e.path for e in entries if left & set(e.names)}
    names = [n for path, rule in rules.items() for n in rule.names if _any_covers(parts, path)]
    left |= {name for name in mapping if _any_covers(names, name)}
    return [e for e in entries if e.path not in skipped], left


def _with_inserted(parts: tuple[str, ...], paths: list[str]) -> tuple[str, ...]:
    """Return the parts with each inserted block in place of the name for all, if there are any."""
    inserted = inserted_in(paths)
    if INSERTED not in parts or not inserted:
        return parts
    return (*(part for part in parts if part != INSERTED), *inserted)


def _any_covers(parts: Iterable[str], path: str) -> bool:
    return any(covers(part, path) for part in parts)


def _check_names(model, table: Table, wanted, left: set[str], below: Below, mapping) -> None:
    """Raise CheckpointError if entries are missing, left over or of another shape."""
    expected = shapes_of(wanted)
    relevant = {n: v for n, v in table.own(below.tensors).items() if n not in left}
    faults = misfits(expected, relevant, table.shapes.keys() - expected.keys())
    if not faults:
        return
    told = relevant or mapping  # where all is taken for other modules, they tell
    found = {name: shape_of(value) for name, value in told.items()}
    notes = [*hints(expected, found), *first_names(expected, mapping if below.prefix else told)]
    if below.beside:
        notes.append(f"beside {quoted(below.prefix)}: {several(below.beside)}")
    raise CheckpointError(_title(model, table, below), faults, notes)


def _values(model, table: Table, wanted: Sequence[Entry], below: Below, allow_non_finite: bool):
    """Return the entries with their arrays; raise CheckpointError for values that do not fit."""
    values, faults = [], []
    for entry in wanted:
        dtype, label = entry.variable.dtype, entry.path
        try:
            kind = np.result_type(dtype, np.complex64) if entry.layout.of_complex else dtype
            for label in entry.names:  # the fault of one of several names is told by that name
                converted(below.tensors[label], kind, allow_non_finite=allow_non_finite)
            label = ", ".join(entry.names)
            array = entry.from_torch(below.tensors)
            array = converted(array, dtype, allow_non_finite=allow_non_finite)
        except UnfitValueError as error:
            faults.append(f"value: {label} {error}")
        except ValueError as error:  # no orthogonal matrix, for one
            faults.append(f"value: {label}: {error}")
        else:
            values.append((entry, jnp.asarray(array)))
    if faults:
        raise CheckpointError(_title(model, table, below), faults)
    return values


def _title(model: nnx.Module, table: Table, below: Below) -> str:
    place = f" below {quoted(below.prefix)}" if below.prefix else ""
    return f"the checkpoint does not fit this {type(model).__name__} ({table.family} names{place}):"
