# SPDX-License-Identifier: Apache-2.0
"""Published PyTorch state dicts into our models, and back, strictly."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.diagnosis import hints
from spectral_flax.checkpoints.entries import weights_in
from spectral_flax.checkpoints.faults import CheckpointError, first_names, misfits, shape_of
from spectral_flax.checkpoints.names.layouts import LEAF_NAMES, Layout, each, usual
from spectral_flax.checkpoints.names.tables import Rule, ignored_by, tables_for
from spectral_flax.checkpoints.parts import INSERTED, as_parts, chosen, covers, inserted_in
from spectral_flax.checkpoints.prefixes import weights_below
from spectral_flax.checkpoints.torch.reader import read_torch
from spectral_flax.checkpoints.values import UnfitValueError, converted
from spectral_flax.files import local_path
from spectral_flax.messages import quoted, several


class UncoveredError(ValueError):
    """A table of names says nothing of an array of the model."""


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

    def __str__(self):
        text = f"loaded {len(self.loaded)} entries ({self.family} names)"
        for what, names in (
            ("ignored", self.ignored),
            ("left as they were", self.skipped),
            ("objects not built", self.foreign),
        ):
            if names:
                text += f"; {what}: {', '.join(names)}"
        return text


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of ours and the PyTorch entries that make it up."""

    path: str
    variable: nnx.Variable
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    layout: Layout
    owner: nnx.Module

    def from_torch(self, mapping: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.layout.from_torch([np.asarray(mapping[n]) for n in self.names], self.owner)

    def to_torch(self) -> dict[str, np.ndarray]:
        arrays = self.layout.to_torch(np.asarray(self.variable[...]), self.owner)
        pairs = zip(self.names, (a for a in arrays if a is not None), strict=True)
        # NumPy makes an axis for a scalar.
        return {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in pairs}


def load_torch(
    model: nnx.Module,
    source: Mapping[str, Any] | str | os.PathLike,
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
    tables = _covering_tables(model)
    below = weights_below(mapping, [table.shapes.keys() for table in tables])
    table = min(tables, key=lambda table: table.misfit(below.tensors))
    wanted, left = _without(skip, table, below.tensors, type(model).__name__)
    relevant = {n: v for n, v in table.own(below.tensors).items() if n not in left}
    expected = _shapes(wanted)
    skipped = [e for e in table.entries if e not in wanted]
    faults = misfits(expected, relevant, _shapes(skipped))
    title = f"the checkpoint does not fit this {type(model).__name__} ({table.family} names"
    title += f" below {quoted(below.prefix)}):" if below.prefix else "):"
    if faults:
        told = relevant or mapping  # where all is taken for other modules, they tell
        found = {name: shape_of(value) for name, value in told.items()}
        notes = [*hints(expected, found), *first_names(expected, mapping if below.prefix else told)]
        if below.beside:
            notes.append(f"beside {quoted(below.prefix)}: {several(below.beside)}")
        raise CheckpointError(title, faults, notes)
    values, faults = _values(wanted, below.tensors, allow_non_finite)  # all before any is assigned
    if faults:
        raise CheckpointError(title, faults)
    for item, value in values:
        item.variable.set_value(value)  # not by item: an abstract model has no items
    used = tuple(name for e in table.entries for name in e.names if name in below.tensors)
    ignored = (*sorted(below.tensors.keys() - set(used)), *below.beside)
    return Report(table.family, used, ignored, tuple(e.path for e in skipped), foreign)


def save_torch(
    model: nnx.Module,
    path: str | os.PathLike | None = None,
    *,
    family: str | None = None,
    overwrite: bool = False,
) -> dict[str, np.ndarray]:
    """Return the state dict of ``model`` under the published PyTorch names.

    With a ``path`` it is also written there, as a file for ``torch.load``; what is there is
    replaced with ``overwrite`` only. ``family`` chooses among several published ways to name one
    architecture; None is the first.
    """
    tables = {table.family: table.entries for table in _covering_tables(model)}
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


def torch_entries(model: nnx.Module, rules: Sequence[Rule]) -> list[Entry]:
    """Return where each array of ``model`` comes from by a table of rules.

    Raises:
      UncoveredError: no rule covers an array.
    """
    compiled = [(re.compile(rule.path), rule) for rule in rules]
    entries = []
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        dotted = ".".join(map(str, path))
        module = _module_at(model, path[:-1])
        variable = getattr(module, path[-1])
        leaf = str(path[-1])
        for pattern, rule in compiled:
            if match := pattern.fullmatch(dotted):
                owner, suffix = module, ""
            elif match := pattern.fullmatch(dotted.rpartition(".")[0]):
                owner = _module_at(model, path[: -1 - rule.above])
                suffix = f".{LEAF_NAMES.get(leaf, leaf)}"
            else:
                continue
            layout = _layout(rule, module, leaf, whole=not suffix)
            names = tuple(n.format(**match.groupdict()) + suffix for n in rule.names)
            arrays = layout.to_torch(np.broadcast_to(np.float32(0), variable.shape), owner)
            there = [(n, a.shape) for n, a in zip(names, arrays, strict=True) if a is not None]
            names, shapes = zip(*there, strict=True)
            entries.append(Entry(dotted, variable, names, shapes, layout, owner))
            break
        else:
            raise UncoveredError(f"no rule covers {dotted} of {type(model).__name__}")
    return entries


def _layout(rule: Rule, module, leaf: str, whole: bool) -> Layout:
    if rule.layout is None:
        return usual(module, leaf)
    # A rule for one array says all of it; one for a layer works on arrays already in our order.
    if whole or leaf != "kernel" or isinstance(module, nnx.Linear):
        return rule.layout
    return each(usual(module, leaf), rule.layout)


def _module_at(model, path):
    for part in path:
        model = model[part] if isinstance(model, nnx.List | nnx.Dict) else getattr(model, part)
    return model


@dataclasses.dataclass(frozen=True)
class _Table:
    """The entries of a model by one family of names."""

    family: str
    rules: tuple[Rule, ...]
    entries: list[Entry]
    ignored: re.Pattern

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return _shapes(self.entries)

    def own(self, mapping: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out the entries of other modules published in the same file."""
        return {name: v for name, v in mapping.items() if not self.ignored.fullmatch(name)}

    def misfit(self, mapping: Mapping[str, Any]) -> int:
        return len(self.shapes.keys() ^ self.own(mapping).keys())


def _covering_tables(model) -> list[_Table]:
    """Return the tables of the model's class that cover it."""
    tables, uncovered = [], []
    for family, rules in tables_for(model):
        try:
            entries = torch_entries(model, rules)
        except UncoveredError as error:  # the names of a sibling architecture
            uncovered.append(error)
        else:
            tables.append(_Table(family, rules, entries, ignored_by(model, family)))
    if not tables:
        raise uncovered[0]
    return tables


def _shapes(entries: Iterable[Entry]) -> dict[str, tuple[int, ...]]:
    return {n: s for e in entries for n, s in zip(e.names, e.shapes, strict=True)}


def _read(source, entry: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    if isinstance(source, Mapping):
        return weights_in(source, entry), ()
    file = read_torch(local_path(source, "source"), entry=entry)
    return file.tensors, tuple(file.foreign)


def _without(skip, table: _Table, mapping, model: str) -> tuple[list[Entry], set[str]]:
    """Return the entries but those to be skipped, and the names in the file to be left.

    A model may have been built without the part (num_classes=None) that the file has: its rule
    tells its names then. Names of the file serve where they are none of ours.
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


def _values(wanted: Sequence[Entry], mapping, allow_non_finite: bool):
    """Return the entries with their arrays for the model, and faults of their values."""
    values, faults = [], []
    for entry in wanted:
        dtype, label = entry.variable.dtype, entry.path
        try:
            for label in entry.names:  # the fault of one of several names is told by that name
                converted(mapping[label], dtype, allow_non_finite=allow_non_finite)
            label = ", ".join(entry.names)
            array = entry.from_torch(mapping)
            array = converted(array, dtype, allow_non_finite=allow_non_finite)
        except UnfitValueError as error:
            faults.append(f"value: {label} {error}")
        except ValueError as error:  # no orthogonal matrix, for one
            faults.append(f"value: {label}: {error}")
        else:
            values.append((entry, jnp.asarray(array)))
    return values, faults
