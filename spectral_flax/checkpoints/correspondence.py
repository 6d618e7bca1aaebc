# SPDX-License-Identifier: Apache-2.0
"""Which PyTorch entries make up each array of a model, by the tables of its class."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from spectral_flax.checkpoints.names.layouts import LEAF_NAMES, Layout, each, usual
from spectral_flax.checkpoints.names.tables import Rule, ignored_by, tables_for


class UncoveredError(ValueError):
    """A table of names says nothing of an array of the model."""


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


@dataclasses.dataclass(frozen=True)
class Table:
    """The entries of a model by one family of names, and the pattern of names it ignores."""

    family: str
    rules: tuple[Rule, ...]
    entries: list[Entry]
    ignored: re.Pattern

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes_of(self.entries)

    def own(self, mapping: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out the entries of other modules published in the same file."""
        return {name: v for name, v in mapping.items() if not self.ignored.fullmatch(name)}

    def misfit(self, mapping: Mapping[str, Any]) -> int:
        """Return how many names only one of the table and a file has."""
        return len(self.shapes.keys() ^ self.own(mapping).keys())


def tables_covering(model: nnx.Module) -> list[Table]:
    """Return the tables of the model's class that cover it; the first is the usual one.

    Raises UncoveredError if none does.
    """
    tables, uncovered, paths = [], [], _paths(model)
    for family, rules in tables_for(model):
        try:
            entries = _entries(model, paths, rules)
        except UncoveredError as error:  # the names of a sibling architecture
            uncovered.append(error)
        else:
            tables.append(Table(family, rules, entries, ignored_by(model, family)))
    if not tables:
        raise uncovered[0]
    return tables


def shapes_of(entries: Iterable[Entry]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of PyTorch entries by their names."""
    return {n: s for e in entries for n, s in zip(e.names, e.shapes, strict=True)}


def torch_entries(model: nnx.Module, rules: Sequence[Rule]) -> list[Entry]:
    """Return where each array of ``model`` comes from by a table of rules.

    Raises:
      UncoveredError: no rule covers an array.
    """
    return _entries(model, _paths(model), rules)


def _paths(model: nnx.Module) -> list[tuple]:
    """Return where the arrays of ``model`` are; every table of names asks for the same."""
    return [path for path, _ in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))]


def _entries(model: nnx.Module, paths: Iterable[tuple], rules: Sequence[Rule]) -> list[Entry]:
    compiled = [(re.compile(rule.path), rule) for rule in rules]
    entries = []
    for path in paths:
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
