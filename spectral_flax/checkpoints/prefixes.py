# SPDX-License-Identifier: Apache-2.0
"""Prefixes of names below which a file keeps a model: ``model.``, ``module.backbone.``."""

import collections
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from spectral_flax.messages import quoted, several

MAX_PARTS = 12  # of a prefix
CHANCE = 0.25  # the share of a model's names that is not found by chance
# Counters of training, which are no arrays of any model.
COUNTERS = ("num_batches_tracked", "n_averaged")


class Below(NamedTuple):
    """The entries of a file that may be a model's, by the names below ``prefix``."""

    tensors: dict[str, Any]
    prefix: str
    beside: tuple[str, ...]  # the whole names of entries that are not below the prefix


def weights_below(tensors: Mapping[str, Any], families: Sequence[Set[str]]) -> Below:
    """Return the entries by names that a model knows, of one of several families.

    The prefix is the one below which most names are known; none, if none has more than there are
    without. A few known names in a large file are chance, and no prefix. Where known names are
    still missing, those of another prefix are taken too, if they are all it has: a backbone and
    its head, kept apart. Counters are left out.

    Raises ValueError if several prefixes serve as well: the file holds several models.
    """
    tensors = {n: v for n, v in tensors.items() if n.rpartition(".")[2] not in COUNTERS}
    fits: dict[str, dict[str, str]] = collections.defaultdict(dict)  # known and whole names
    sizes, claims = collections.Counter(), collections.Counter()
    known = set().union(*families)
    for name in tensors:
        for prefix in _prefixes(name):
            sizes[prefix] += 1
            if (short := name[len(prefix) :]) in known:
                fits[prefix][short] = name
                claims[short] += 1
    best = _best(fits) if fits else ""
    share = max(len(fits[best].keys() & names) / max(len(names), 1) for names in families)
    if 2 * len(fits[best]) < len(tensors) and share < CHANCE:
        best, fits = _shared(tensors), {}
    source = {n[len(best) :]: n for n in tensors if n.startswith(best)}
    for prefix, names in fits.items():
        taken = set(names.values())
        free = taken.isdisjoint(fits[best].values()) and names.keys().isdisjoint(fits[best])
        if free and len(names) == sizes[prefix] and all(claims[short] == 1 for short in names):
            source = {s: n for s, n in source.items() if n not in taken} | names
    beside = tensors.keys() - source.values()
    return Below({s: tensors[n] for s, n in source.items()}, best, tuple(sorted(beside)))


def entries_below(tensors: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """Return the entries whose names begin with ``entry`` and a dot, without these.

    Raises ValueError, with the file's own first names, if there are none.
    """
    if not isinstance(entry, str):
        raise TypeError(f"entry={entry!r}; expected the first part of names, as text")
    prefix = f"{entry}." if entry else ""
    found = {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}
    if not found:
        raise ValueError(f"it has no entry {quoted(entry)}; its names are {several(tensors)}")
    return found


def _prefixes(name: str) -> list[str]:
    """Return the prefixes that a name may have, the empty one first."""
    prefixes, end = [""], 0
    while len(prefixes) <= MAX_PARTS and (end := name.find(".", end) + 1):
        prefixes.append(name[:end])
    return prefixes


def _best(fits: Mapping[str, Set[str]]) -> str:
    most = max(len(names) for names in fits.values())
    best = sorted((p for p, names in fits.items() if len(names) == most), key=len)
    # One within another is no choice: the same entries by fewer and by more of their name.
    others = [prefix for prefix in best[1:] if not prefix.startswith(best[0])]
    if others:
        names = several([best[0].rstrip("."), *(prefix.rstrip(".") for prefix in others)])
        raise ValueError(f"it holds several sets of weights; choose one by entry=: {names}")
    return best[0]


def _shared(names: Mapping[str, Any]) -> str:
    """Return the first parts that all names share."""
    prefix = ""
    for longer in _prefixes(min(names, default=""))[1:]:
        if not all(name.startswith(longer) for name in names):
            break
        prefix = longer
    return prefix
