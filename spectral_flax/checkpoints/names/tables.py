# SPDX-License-Identifier: Apache-2.0
"""Rules, and the registry of tables of them."""

import dataclasses
import re
from collections.abc import Callable, Sequence

from flax import nnx

from spectral_flax.checkpoints.names.layouts import LEAF_NAMES, Layout


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""Where the PyTorch entries of one module, or of one array, are found.

    Attributes:
      path: regular expression that matches the whole dotted path of a module (``stage1.0.conv1``)
        or of one of its arrays (``gate``) in our model.
      name: the PyTorch name of that module or array; ``{group}`` is filled in from a named group
        of ``path``. Several names: the array is made of several entries, as ``layout`` says.
      layout: how entries become our array and back; None is the usual one of that kind of layer.
      above: the layout is given the module this many levels above the layer, as its owner.
    """

    path: str
    name: str | tuple[str, ...]
    layout: Layout | None = None
    above: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if isinstance(self.name, str) else self.name


def nested(rules: Sequence[Rule], path: str, name: str) -> list[Rule]:
    """Return the rules of a module that stands at ``path`` and is called ``name`` in PyTorch."""
    below = f"{path}\\." if path else ""
    return [
        dataclasses.replace(
            rule,
            path=below + rule.path,
            name=tuple(".".join(filter(None, (name, part))) for part in rule.names),
        )
        for rule in rules
    ]


Rules = Sequence[Rule] | Callable[[nnx.Module], Sequence[Rule]]


@dataclasses.dataclass(frozen=True)
class _Table:
    family: str
    rules: Rules
    ignored: re.Pattern


_NOTHING = re.compile("(?!)")
_TABLES: dict[type, list[_Table]] = {}


def register_rules(
    module_class: type, rules: Rules, family: str = "", ignored: str = "(?!)"
) -> None:
    """Add a table for a class; of several (published names differ) the best fitting is used.

    ``rules`` may be a function of the module, where names depend on its options. Entries whose
    whole name matches ``ignored`` belong to other parts of what was published (a discriminator
    beside a generator): they are reported and left.
    """
    table = _Table(family or module_class.__name__, rules, re.compile(ignored))
    _TABLES.setdefault(module_class, []).append(table)


def tables_for(module: nnx.Module) -> list[tuple[str, tuple[Rule, ...]]]:
    """Return the tables of a module's class, each with the name of its family.

    A class without any has the names of its own modules, in PyTorch's words for their arrays.
    """
    if type(module) not in _TABLES:
        return [(OWN_NAMES, _own_names(module))]
    return [
        (table.family, tuple(table.rules(module) if callable(table.rules) else table.rules))
        for table in _TABLES[type(module)]
    ]


OWN_NAMES = "own"


def _own_names(module: nnx.Module) -> tuple[Rule, ...]:
    """Return rules that keep names: those of tables where a part has one, else of each module."""
    rules: list[Rule] = []
    below: list[str] = []
    for path, part in nnx.iter_children(module):
        name = str(path)
        if type(part) in _TABLES:
            rules += nested(tables_for(part)[0][1], re.escape(name), name)
            below.append(name)
    return tuple(dict.fromkeys([*rules, *kept_names(module, below)]))


def kept_names(module: nnx.Module, without: Sequence[str] = ()) -> list[Rule]:
    """Return rules that keep the path of each array, but below parts that are named."""
    rules = []
    for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState))):
        *owner, leaf = map(str, path)
        if owner and owner[0] not in without:
            rules.append(Rule(re.escape(".".join(owner)), ".".join(owner)))
        elif not owner:
            rules.append(Rule(re.escape(leaf), LEAF_NAMES.get(leaf, leaf)))
    return list(dict.fromkeys(rules))


def ignored_by(module: nnx.Module, family: str) -> re.Pattern:
    """Return the pattern of names that a family of published files holds for other modules."""
    tables = _TABLES.get(type(module), ())
    return next((t.ignored for t in tables if t.family == family), _NOTHING)


def all_tables() -> dict[type, list[tuple[str, Rules]]]:
    """Return every registered table by class."""
    return {c: [(t.family, t.rules) for t in tables] for c, tables in _TABLES.items()}
