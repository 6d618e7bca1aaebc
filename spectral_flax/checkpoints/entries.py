# SPDX-License-Identifier: Apache-2.0
"""Search for the weights in the nested dictionaries that training programs save."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spectral_flax.checkpoints.prefixes import entries_below
from spectral_flax.messages import quoted, several, shown

# Names under which training programs keep the weights, the likeliest first.
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module", "net", "network")
WRAPPERS += ("weights", "params", "blobs")
MAX_WRAPPERS = 4


class NoWeightsError(ValueError):
    """There are no weights where they were looked for."""


def find_weights(root: Any, entry: str | None, holds: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return the dotted place of the weights in ``root``, and what is there.

    ``entry`` is the place to look at, or in: keys joined by dots, from the root or from the
    usual wrapper, the last of which may also be the first part of the weights' own names; "" is
    the root itself. ``holds`` tells whether a node is a set of weights.

    Raises ValueError, naming what there is, if there are no weights, or several sets of them.
    """
    if entry is None:
        return _opened(root, (), holds)
    if not isinstance(entry, str):
        raise TypeError(f"entry={entry!r}; expected names joined by dots, as text")
    if not entry:
        if not holds(root):
            raise NoWeightsError(f"it holds no tensors by name itself but {told(root)}")
        return "", root
    below = _Below(holds)
    node = _at(root, entry.split("."))
    if node is None:
        wrapped = next((w for w in WRAPPERS if below(_get(root, w))), None)
        node = None if wrapped is None else _at(root[wrapped], entry.split("."))
    if node is None:
        raise ValueError(f"it has no entry {quoted(entry)}; it has {told(root)}")
    if not below(node):
        raise NoWeightsError(f"its entry {quoted(entry)} holds no tensors but {told(node)}")
    return _opened(node, (entry,), holds)


def weights_in(root: Mapping[str, Any], entry: str | None = None) -> dict[str, Any]:
    """Return the weights by name that a mapping holds, itself or in an entry; see `find_weights`.

    Raises ValueError also for names that are no text.
    """
    if entry is None and not any(isinstance(value, Mapping) for value in root.values()):
        found = root
    else:
        found = find_weights(root, entry, _is_state)[1]
    for name in found:
        if not isinstance(name, str):
            raise ValueError(f"an entry is called {shown(name)}; expected names as text")
    return {name: value for name, value in found.items() if name != "_metadata"}


def told(node: Any) -> str:
    """Return in words what a node holds."""
    if not isinstance(node, Mapping):
        return f"a {shown(getattr(node, 'name', type(node).__name__))}"
    return f"the entries {several(map(str, node))}" if node else "no entries"


def _opened(node: Any, place: tuple[str, ...], holds) -> tuple[str, Any]:
    """Follow the usual wrappers, and those that hold nothing else, to the weights."""
    below, wrapped = _Below(holds), _Below(holds, WRAPPERS)  # an optimiser's state is not wrapped
    for _ in range(MAX_WRAPPERS):
        within = node if isinstance(node, Mapping) else {}
        keys = [w for w in WRAPPERS if w in within and below(within[w])][:1]
        if not keys and not holds(node):
            keys = [key for key, value in within.items() if wrapped(value)]
            keys = keys or [key for key, value in within.items() if below(value)]
        if len(keys) > 1:
            names = several(quoted(".".join([*place, shown(key)])) for key in keys)
            raise ValueError(f"it holds several sets of weights; choose one by entry=: {names}")
        if not keys:
            break
        place, node = (*place, str(keys[0])), within[keys[0]]
    if not holds(node):
        raise NoWeightsError(f"it holds no tensors by name; it has {told(node)}")
    return ".".join(place), node


class _Below:
    """Whether a node holds weights, itself or below; a file may mention one a million times."""

    def __init__(self, holds: Callable[[Any], bool], through: Sequence[str] | None = None):
        self.holds, self.through = holds, through
        self.known: dict[tuple[int, int], bool] = {}

    def __call__(self, node: Any, depth: int = MAX_WRAPPERS) -> bool:
        key = id(node), depth
        if key not in self.known:
            within = node if isinstance(node, Mapping) and depth else {}
            keys = within if self.through is None else within.keys() & set(self.through)
            found = self.holds(node) or any(self(within[key], depth - 1) for key in keys)
            self.known[key] = found
        return self.known[key]


def _at(node: Any, parts: list[str]) -> Any:
    """Return what lies at a dotted place, of whose keys some may have dots themselves."""
    if not parts:
        return node
    if not isinstance(node, Mapping):
        return None
    for count in range(len(parts), 0, -1):
        found = _at(_get(node, ".".join(parts[:count])), parts[count:])
        if found is not None:
            return found
    try:
        return entries_below({n: v for n, v in node.items() if isinstance(n, str)}, ".".join(parts))
    except ValueError:
        return None


def _get(node: Any, key: str) -> Any:
    """Return the value at a key, which may be a number or the like where it is given as text."""
    if not isinstance(node, Mapping):
        return None
    others = (value for k, value in node.items() if not isinstance(k, str) and str(k) == key)
    return node[key] if key in node else next(others, None)


def _is_state(node: Any) -> bool:
    """Whether a mapping has arrays by name: numbers alone may stand beside sets of weights."""
    return isinstance(node, Mapping) and any(
        isinstance(name, str) and getattr(value, "shape", ()) != () for name, value in node.items()
    )
