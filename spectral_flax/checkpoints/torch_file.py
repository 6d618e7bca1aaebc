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
from spectral_flax.checkpoints.entries import MAX_WRAPPERS, find_weights
from spectral_flax.checkpoints.pickle_data import Foreign, Unsafe
from spectral_flax.checkpoints.torch_archive import Archive
from spectral_flax.checkpoints.torch_tensors import Tensor, as_array

# Prefixes that wrappers of a module put before every name: data parallelism, torch.compile.
PREFIXES = ("module.", "_orig_mod.")


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
    that all names share is removed; ``entry`` says where the weights are (see `find_weights`)
    where a file holds several sets of them. Arrays are read-only, may be strided views of one
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
    entry, found = find_weights(root, entry, _Memory())
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


def _is_tensor(node: Any) -> bool:
    """Whether the node is a tensor, be it one without a dense form (sparse, quantised, meta)."""
    return isinstance(node, Tensor) or (isinstance(node, Foreign) and "._rebuild" in node.name)


class _Memory:
    """Which nodes hold tensors, looked at once each: a file may mention one a million times."""

    def __init__(self):
        self.known: dict[int, bool] = {}

    def __call__(self, node: Any) -> bool:
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
