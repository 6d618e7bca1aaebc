# SPDX-License-Identifier: Apache-2.0
"""Published PyTorch state dicts into our models, and back, strictly."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence, Set

import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.hints import hints
from spectral_flax.checkpoints.rules.layouts import LEAF_NAMES, Layout, each, usual
from spectral_flax.checkpoints.rules.tables import Rule, ignored_by, tables_for
from spectral_flax.checkpoints.torch_file import read_torch


class CheckpointError(ValueError):
    """A checkpoint does not fit a model; the message lists every fault."""


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
        return {name: np.ascontiguousarray(array) for name, array in pairs}


def load_torch(
    model: nnx.Module,
    source: Mapping[str, np.ndarray] | str | os.PathLike,
    *,
    skip: Sequence[str] = (),
) -> Report:
    """Fill ``model``, in place, from a state dict under the published PyTorch names.

    ``source`` is a mapping of names to arrays, or the path of a file. Every array of the model
    must be found, with its shape, and every entry be used, or nothing is changed. ``skip`` names
    parts of our model (``"head"``) that keep their values, or are not there, whatever the file
    holds for them.
    Arrays are converted to the dtype of the model's.

    Raises:
      CheckpointError: entries are missing, left over or of the wrong shape; all are listed.
    """
    foreign: tuple[str, ...] = ()
    if not isinstance(source, Mapping):
        file = read_torch(source)
        source, foreign = file.tensors, tuple(file.foreign)
    tables = _covering_tables(model)
    known = {name for _, entries in tables for entry in entries for name in entry.names}
    mapping = _unwrapped(source, known)
    family, entries = _best_table(model, tables, mapping)
    skipped = [e for e in entries if any(_below(e.path, part) for part in skip)]
    rules = [rule for rule in dict(tables_for(model))[family] if rule.path in skip]
    for part in skip:
        if not any(_below(e.path, part) for e in entries) and part not in {r.path for r in rules}:
            raise ValueError(f"skip={part!r} names no part of {type(model).__name__}")
    wanted = [e for e in entries if e not in skipped]
    # A model may have been built without the part (num_classes=None) that the file has.
    left = [name for rule in rules for name in rule.names]
    relevant = {
        name: value
        for name, value in _without_others(mapping, model, family).items()
        if not any(_below(name, part) for part in left)
    }
    faults = _faults(wanted, skipped, relevant)
    if faults:
        title = f"the checkpoint does not fit this {type(model).__name__} ({family} names):"
        expected = {n: s for e in wanted for n, s in zip(e.names, e.shapes, strict=True)}
        told = relevant or mapping  # where all is taken for other modules, they tell
        found = {name: tuple(np.shape(value)) for name, value in told.items()}
        raise CheckpointError("\n".join([title, *hints(expected, found), *faults]))
    values = [(e, _converted(e, mapping)) for e in wanted]  # all before any is assigned
    for entry, value in values:
        entry.variable.set_value(value)  # not by item: an abstract model has no items
    used = [name for e in entries for name in e.names if name in mapping]
    ignored = sorted(set(mapping) - set(used))
    left_alone = tuple(e.path for e in skipped)
    return Report(family, tuple(used), tuple(ignored), left_alone, foreign)


def save_torch(
    model: nnx.Module, path: str | os.PathLike | None = None, *, family: str | None = None
) -> dict[str, np.ndarray]:
    """Return the state dict of ``model`` under the published PyTorch names.

    With a ``path`` it is also written there, as a file for ``torch.load``. ``family`` chooses among
    several published ways to name one architecture; None is the first.
    """
    tables = dict(_covering_tables(model))
    family = next(iter(tables)) if family is None else family
    if family not in tables:
        raise ValueError(f"family={family!r}; expected one of {', '.join(tables)}")
    state: dict[str, np.ndarray] = {}
    for entry in tables[family]:
        state |= entry.to_torch()
    counters = [n.removesuffix("running_var") for n in state if n.endswith("running_var")]
    state |= {f"{name}num_batches_tracked": np.zeros((), np.int64) for name in counters}
    if path is not None:
        from spectral_flax.checkpoints.torch_writer import write_torch

        write_torch(path, state)
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


def _below(path: str, part: str) -> bool:
    return path == part or path.startswith(f"{part}.")


def _unwrapped(source, known: Set[str]) -> dict[str, np.ndarray]:
    """Return the tensors by name, without step counters and without a wrapper's prefix.

    A prefix (``module.``) is a first part that all names share and none of the ``known`` has.
    """
    known_parts = {name.partition(".")[0] for name in known}
    while source and all("." in name for name in source):
        parts = {name.partition(".")[0] for name in source}
        if len(parts) > 1 or parts <= known_parts:
            break
        source = {name.partition(".")[2]: value for name, value in source.items()}
    return {n: v for n, v in source.items() if not n.endswith("num_batches_tracked")}


def _covering_tables(model) -> list[tuple[str, list[Entry]]]:
    """Return the entries of the model by each family of names that covers it."""
    tables, uncovered = [], []
    for family, rules in tables_for(model):
        try:
            tables.append((family, torch_entries(model, rules)))
        except UncoveredError as error:  # the names of a sibling architecture
            uncovered.append(error)
    if not tables:
        raise uncovered[0]
    return tables


def _best_table(model, tables, mapping) -> tuple[str, list[Entry]]:
    """Return the family whose names are closest to those of the mapping."""

    def misfit(table):
        ours = {name for entry in table[1] for name in entry.names}
        return len(ours ^ _without_others(mapping, model, table[0]).keys())

    return min(tables, key=misfit)


def _without_others(mapping, model, family) -> dict[str, np.ndarray]:
    """Return the entries that are not those of other modules published in the same file."""
    ignored = ignored_by(model, family)
    return {name: value for name, value in mapping.items() if not ignored.fullmatch(name)}


def _faults(wanted: list[Entry], skipped: list[Entry], mapping) -> list[str]:
    expected = {n: s for e in wanted for n, s in zip(e.names, e.shapes, strict=True)}
    known = expected.keys() | {name for e in skipped for name in e.names}
    lines = [f"  missing: {n} {list(s)}" for n, s in expected.items() if n not in mapping]
    lines += [
        f"  unexpected: {name} {list(np.shape(value))}"
        for name, value in mapping.items()
        if name not in known
    ]
    lines += [
        f"  shape: {name} is {list(np.shape(mapping[name]))}; the model needs {list(shape)}"
        for name, shape in expected.items()
        if name in mapping and tuple(np.shape(mapping[name])) != shape
    ]
    return lines


def _converted(entry: Entry, mapping):
    array = entry.from_torch(mapping)
    return jnp.asarray(np.asarray(array), entry.variable.dtype)
