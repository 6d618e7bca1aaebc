# SPDX-License-Identifier: Apache-2.0
"""Reader of the weights in a PyTorch file, without PyTorch; nothing in the file is executed.

Understands both serialisations of ``torch.save`` (zip archives and the older sequence of pickles),
under any file name: ``.pth``, ``.pth.tar``, ``.pyth``, ``.ckpt``, ``.bin``. Only the storages that
the weights use are read, each once and straight into its array: an optimiser's state beside them
costs nothing.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spectral_flax.checkpoints.budget import Budget
from spectral_flax.checkpoints.entries import MAX_WRAPPERS, NoWeightsError, find_weights
from spectral_flax.checkpoints.torch import archive as torch_archive
from spectral_flax.checkpoints.torch import caffe2, numpy_values
from spectral_flax.checkpoints.torch.archive import Archive
from spectral_flax.checkpoints.torch.pickle_machine import Unsafe
from spectral_flax.checkpoints.torch.pickle_values import Foreign
from spectral_flax.checkpoints.torch.tensors import Arrays, Tensor, Unread
from spectral_flax.messages import message, quoted, shown

# Prefixes that wrappers of a module put before every name: data parallelism, torch.compile.
PREFIXES = ("module.", "_orig_mod.")
MAX_CLASSES = 100  # named in a report


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a PyTorch file by name, and what else was found in it.

    NumPy arrays and scalars among the tensors count as such.
    """

    tensors: dict[str, np.ndarray]
    foreign: tuple[str, ...]  # classes of objects that were left unbuilt, sorted
    skipped: tuple[str, ...]  # entries among the weights that are no tensors, or not dense ones
    entry: str  # where in the file the weights were: "state_dict"; "" for the file itself
    prefix: str  # what was removed from the front of every name: "module."
    metadata: dict[str, Any]  # numbers and texts beside the weights: epoch, arch, ...
    unread: dict[str, str]  # tensors without a dense form among the skipped, and why
    record: bytes | None = None  # what this library keeps beside the weights it writes


def read_torch(path: str | pathlib.Path, *, entry: str | None = None) -> Checkpoint:
    """Return the weights in the file at ``path`` as NumPy arrays (bfloat16 included).

    Wrappers (``state_dict``, ``model_state``, ...) are opened and a prefix such as ``module.``
    that all names share is removed; ``entry`` says where the weights are (see `find_weights`)
    where a file holds several sets of them. Arrays are read-only, may be strided views of one
    another as the tensors were, and keep the dtype of the file.

    Objects of other classes stay unbuilt and are listed, as are tensors without a dense form
    (sparse, quantised, lazily conjugated), which are no hindrance to reading the others.

    Raises ValueError, naming the file, for anything that is not an intact PyTorch file, for names
    that no checkpoint needs (``os.system``), called or not, where no tensor can be read, and for a
    file that would take memory out of proportion to its size. The zip format is verified by its
    checksums; the older format has none, so there only the structure is checked.
    """
    path = pathlib.Path(path)
    try:
        with torch_archive.open_archive(path) as archive:
            return _checkpoint(archive, entry)
    except Unsafe as error:
        reason = f"is refused, and nothing in it was run: {message(error)}"
        raise ValueError(f"{path} {reason}") from error
    except (ValueError, EOFError, OverflowError, RecursionError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can not be read as a PyTorch file: {message(error)}") from error


def _checkpoint(archive: Archive, entry: str | None) -> Checkpoint:
    root = archive.root
    entry, found = _find_weights(root, entry)
    values = found
    if isinstance(found, Foreign):
        values = _module_state(found, archive.budget)
        if not values:
            raise ValueError(f"the module {shown(found.name)} in it holds no tensors")
    arrays, tensors, skipped, unread = Arrays(archive), {}, [], {}
    for name, value in values.items():
        if name == "_metadata":
            continue
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = arrays.array(name, value)
            continue
        if isinstance(name, str) and numpy_values.is_array(value):
            try:
                tensors[name] = numpy_values.as_array(value, archive.budget)
                continue
            except ValueError as error:
                unread[shown(name)] = message(error, 200)
        elif _is_tensor(value):
            made = value.reason if isinstance(value, Unread) else f"made by {shown(value.name)}"
            unread[shown(name)] = f"not a dense tensor ({made})"
        skipped.append(shown(name) if isinstance(name, str) else str(name))
    if unread and not tensors:
        name, reason = next(iter(unread.items()))
        raise ValueError(f"{quoted(name)} is {reason}")
    if caffe2.is_blobs(root):
        tensors = caffe2.torch_names(tensors)
    prefix = _shared_prefix(tensors)
    beside = root if isinstance(root, dict) and entry else {}
    return Checkpoint(
        tensors={name.removeprefix(prefix): array for name, array in tensors.items()},
        foreign=_listed(archive.foreign),
        skipped=tuple(skipped),
        entry=entry,
        prefix=prefix,
        metadata={
            k: v for k, v in beside.items() if isinstance(k, str) and isinstance(v, _SCALARS)
        },
        unread=unread,
        record=archive.record,
    )


def _listed(names: set[str]) -> tuple[str, ...]:
    listed = tuple(sorted(shown(name, 200) for name in names))
    more = len(listed) - MAX_CLASSES
    return listed if more <= 0 else (*listed[:MAX_CLASSES], f"and {more} more")


_SCALARS = str | bool | int | float | None


def _find_weights(root: Any, entry: str | None) -> tuple[str, Any]:
    """Return where the weights are: tensors, or arrays where there are no tensors."""
    try:
        return find_weights(root, entry, _Memory(_is_tensor))
    except NoWeightsError:
        return find_weights(root, entry, _Memory(_is_tensor_or_array))


def _is_tensor(node: Any) -> bool:
    """Whether the node is a tensor, be it one without a dense form (sparse, quantised, meta)."""
    if isinstance(node, Foreign):
        return node.name.startswith("torch.") and "._rebuild" in node.name
    return isinstance(node, Tensor | Unread)


def _is_tensor_or_array(node: Any) -> bool:
    # A scalar beside the weights (the best accuracy so far) does not make them weights.
    return _is_tensor(node) or numpy_values.is_array(node, scalars=False)


class _Memory:
    """Which nodes hold tensors, looked at once each: a file may mention one a million times."""

    def __init__(self, is_weight: Callable[[Any], bool]):
        self.known: dict[int, bool] = {}
        self.is_weight = is_weight

    def __call__(self, node: Any) -> bool:
        """Whether the node is a state dict, or a module that was saved whole."""
        if isinstance(node, Foreign):
            return isinstance(node.state, dict) and "_modules" in node.state
        if not isinstance(node, dict):
            return False
        if id(node) not in self.known:
            items = node.items()
            found = any(self.is_weight(v) and isinstance(k, str) for k, v in items)
            self.known[id(node)] = found
        return self.known[id(node)]


def _module_state(module: Foreign, budget: Budget) -> dict[str, Any]:
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
                if value is not None and isinstance(name, str):
                    budget.spend(4 * len(prefix) + 4 * len(name) + 128)
                    result[f"{prefix}{name}"] = value
        children = state.get("_modules")
        if isinstance(children, dict):
            budget.spend((4 * len(prefix) + 128) * len(children))
            pending += [(f"{prefix}{k}.", v) for k, v in reversed(children.items())]
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
