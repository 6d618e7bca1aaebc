# SPDX-License-Identifier: Apache-2.0
"""Read the weights in a PyTorch file without PyTorch; nothing in the file is executed.

Understands both serialisations of ``torch.save`` (zip archives and the older sequence of pickles),
under any file name: ``.pth``, ``.pth.tar``, ``.pyth``, ``.ckpt``, ``.bin``. Only the storages that
the weights use are read, each once and straight into its array, so an optimiser's state beside
them costs nothing.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from spectral_flax.checkpoints import torch_archive
from spectral_flax.checkpoints.pickle_data import Foreign, Unsafe
from spectral_flax.checkpoints.torch_archive import Archive
from spectral_flax.checkpoints.torch_tensors import Tensor, as_array

# Names under which training programs keep the weights, the likeliest first.
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module", "net", "network")
WRAPPERS += ("weights", "params")
# Prefixes that wrappers of a module put before every name: data parallelism, torch.compile.
PREFIXES = ("module.", "_orig_mod.")
MAX_WRAPPERS = 4


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a PyTorch file by name, and what else was found in it."""

    tensors: dict[str, np.ndarray]
    foreign: tuple[str, ...]  # classes of objects that were left unbuilt, sorted
    skipped: tuple[str, ...]  # entries among the weights that are no tensors
    entry: str  # where in the file the weights were: "state_dict"; "" for the file itself
    prefix: str  # what was removed from the front of every name: "module."
    metadata: dict[str, Any]  # numbers and texts beside the weights: epoch, arch, ...


def read_torch(path: str | pathlib.Path, *, entry: str | None = None) -> Checkpoint:
    """Return the weights in the file at ``path`` as NumPy arrays (bfloat16 included).

    Wrappers (``state_dict``, ``model_state``, ...) are opened and a prefix such as ``module.``
    that all names share is removed; ``entry`` names the wrapper (dotted, "" for the file itself)
    where a file holds several sets of weights. Arrays are read-only, may be strided views of one
    another as the tensors were, and keep the dtype of the file.

    Raises ValueError, naming the file, for anything that is not an intact PyTorch file, for calls
    that no checkpoint needs and for tensors without a dense form among the weights. The zip format
    is verified by its checksums; the older format has none, so there only the structure is checked.
    """
    path = pathlib.Path(path)
    try:
        with torch_archive.open_archive(path) as archive:
            return _checkpoint(archive, entry)
    except Unsafe as error:
        raise ValueError(f"{path} is refused, and nothing in it was run: {error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can not be read as a PyTorch file: {error}") from error


def _checkpoint(archive: Archive, entry: str | None) -> Checkpoint:
    root = archive.root
    entry, found = _find_weights(root, entry)
    values = _module_state(found) if isinstance(found, Foreign) else found
    if isinstance(found, Foreign) and not values:
        raise ValueError(f"the module {found.name} in it holds no tensors")
    tensors, skipped, buffers = {}, [], {}
    for name, value in values.items():
        if _is_tensor(value) and isinstance(value, Foreign):
            raise ValueError(f"{name!r} is not a dense tensor (it is made by {value.name})")
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = as_array(name, value, archive.read, archive.swapped, buffers)
        elif name != "_metadata":
            skipped.append(str(name))
    prefix = _shared_prefix(tensors)
    beside = root if isinstance(root, dict) and entry else {}
    return Checkpoint(
        tensors={name.removeprefix(prefix): array for name, array in tensors.items()},
        foreign=_foreign_classes(root),
        skipped=tuple(skipped),
        entry=entry,
        prefix=prefix,
        metadata={
            k: v for k, v in beside.items() if isinstance(k, str) and isinstance(v, _SCALARS)
        },
    )


_SCALARS = str | bool | int | float | None


def _find_weights(root: Any, entry: str | None) -> tuple[str, Any]:
    """Return the dotted place of the weights in the file and the mapping or module there."""
    holds = _Memory()
    if entry is not None:
        node = root
        for part in entry.split(".") if entry else ():
            if not isinstance(node, dict) or part not in node:
                raise ValueError(f"it has no entry {entry!r}; it has {_keys(node)}")
            node = node[part]
        if not holds.tensors(node):
            raise ValueError(f"its entry {entry!r} holds no tensors but {_keys(node)}")
        return entry, node
    node, place = root, []
    for _ in range(MAX_WRAPPERS):
        within = node if isinstance(node, dict) else {}
        known = [k for k in WRAPPERS if k in within and holds.tensors_below(within[k])]
        if not known:
            break
        place.append(known[0])
        node = within[known[0]]
    if holds.tensors(node):
        return ".".join(place), node
    inner = [k for k, v in node.items() if holds.tensors(v)] if isinstance(node, dict) else []
    if len(inner) == 1:
        return ".".join([*place, str(inner[0])]), node[inner[0]]
    if inner:
        names = ", ".join(repr(".".join([*place, str(key)])) for key in inner[:20])
        raise ValueError(f"it holds several sets of weights; choose one by entry=: {names}")
    raise ValueError(f"it holds no tensors by name; it has {_keys(node)}")


def _is_tensor(node: Any) -> bool:
    """Whether the node is a tensor, be it one without a dense form (sparse, quantised, meta)."""
    return isinstance(node, Tensor) or (isinstance(node, Foreign) and "._rebuild" in node.name)


class _Memory:
    """Which nodes hold tensors, looked at once each: a file may mention one a million times."""

    def __init__(self):
        self.known: dict[int, bool] = {}

    def tensors(self, node: Any) -> bool:
        """Whether the node is a state dict, or a module that was saved whole."""
        if isinstance(node, Foreign):
            return isinstance(node.state, dict) and "_modules" in node.state
        if not isinstance(node, dict):
            return False
        if id(node) not in self.known:
            items = node.items()
            found = any(_is_tensor(v) and isinstance(k, str) for k, v in items)
            self.known[id(node)] = found
        return self.known[id(node)]

    def tensors_below(self, node: Any) -> bool:
        """Whether the node holds tensors or a node in it does."""
        inner = node.values() if isinstance(node, dict) else ()
        return self.tensors(node) or any(self.tensors(value) for value in inner)


def _keys(node: Any) -> str:
    if not isinstance(node, dict):
        return f"a {node!r}" if isinstance(node, Foreign) else f"a {type(node).__name__}"
    names = [str(key) for key in list(node)[:8]]
    return f"the entries {', '.join(names)}" + (", ..." if len(node) > 8 else "")


def _module_state(module: Foreign) -> dict[str, Any]:
    """Return the state dict of a module that was saved whole, from the data of its object."""
    result: dict[str, Any] = {}
    seen: set[int] = set()
    pending = [("", module)]
    while pending:
        prefix, node = pending.pop()
        state = node.state if isinstance(node, Foreign) else None
        if not isinstance(state, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        for group in ("_parameters", "_buffers"):
            values = state.get(group)
            for name, value in values.items() if isinstance(values, dict) else ():
                if value is not None:
                    result[f"{prefix}{name}"] = value
        children = state.get("_modules")
        if isinstance(children, dict):
            pending += [(f"{prefix}{k}.", v) for k, v in reversed(list(children.items()))]
        if len(prefix) > 1000:
            raise ValueError("it holds modules nested beyond belief")
    return result


def _shared_prefix(names: Mapping[str, Any]) -> str:
    prefix = ""
    for _ in range(MAX_WRAPPERS if names else 0):
        longer = [prefix + p for p in PREFIXES if all(n.startswith(prefix + p) for n in names)]
        if not longer:
            break
        prefix = longer[0]
    return prefix


def _foreign_classes(root: Any) -> tuple[str, ...]:
    """Return the names of all foreign classes that the file's objects belong to."""
    names: set[str] = set()
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if id(node) in seen or not isinstance(node, dict | list | tuple | Foreign):
            continue
        seen.add(id(node))
        if isinstance(node, Foreign):
            names.add(node.name)
            pending += [*node.args, node.state, *node.items]
        else:
            pending += node.values() if isinstance(node, dict) else node
    return tuple(sorted(names))
