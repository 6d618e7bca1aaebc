# SPDX-License-Identifier: Apache-2.0
"""Parts of a model by name: what ``skip`` means, wherever it is an option.

A part is a dotted path, or a glob over dotted paths, and all that lies below: ``head``,
``stage1.0``, ``stage?.*.transform.rows``, ``*.norm``. The part ``inserted`` is all blocks that
stand between the residual blocks of a network.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

INSERTED = "inserted"
_BLOCK = re.compile(r"(?P<stage>(?:|.*\.)stage\d+)\.(?P<position>\d+)\.(?P<rest>.+)")


def covers(part: str, path: str) -> bool:
    """Return whether ``path`` is, or lies below, what ``part`` names."""
    return fnmatch.fnmatchcase(path, part) or fnmatch.fnmatchcase(path, f"{part}.*")


def as_parts(skip: str | Iterable[str], option: str = "skip") -> tuple[str, ...]:
    """Return ``skip`` as a tuple, be it one name or several.

    Raises TypeError, naming the option, for anything that is not a name.
    """
    several = isinstance(skip, Iterable) and not isinstance(skip, str | bytes)
    parts = tuple(skip) if several else (skip,)
    for part in parts:
        if not isinstance(part, str):
            raise TypeError(f"{option}={skip!r}; expected the name of a part, or several")
    return parts


def inserted_in(paths: Iterable[str]) -> list[str]:
    """Return the paths of the inserted blocks, told by this: residual blocks have a ``conv1``."""
    blocks: dict[str, bool] = {}
    for match in filter(None, map(_BLOCK.fullmatch, paths)):
        block = f"{match['stage']}.{match['position']}"
        blocks[block] = blocks.get(block, False) or match["rest"].startswith("conv1.")
    return [block for block, is_residual in blocks.items() if not is_residual]


def without_inserted(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays outside inserted blocks, named as if no block were inserted."""
    inserted = set(inserted_in(arrays))
    found = {}
    for path, array in arrays.items():
        if match := _BLOCK.fullmatch(path):
            stage, position = match["stage"], int(match["position"])
            if f"{stage}.{position}" in inserted:
                continue
            number = position - sum(f"{stage}.{i}" in inserted for i in range(position))
            path = f"{stage}.{number}.{match['rest']}"
        found[path] = array
    return found


def chosen(
    paths: Iterable[str], skip: str | Iterable[str], *, of: str, option: str = "skip"
) -> set[str]:
    """Return those of ``paths`` that a part in ``skip`` covers.

    Raises ValueError, naming the part and what it should be a part ``of``, if one covers nothing.
    """
    paths, found = list(paths), set()
    for part in as_parts(skip, option):
        below = {path for path in paths if covers(part, path)}
        if not below:
            raise ValueError(f"{option}={part!r} names no part of {of}; {_parts_of(paths)}")
        found |= below
    return found


def _parts_of(paths: Sequence[str]) -> str:
    first = dict.fromkeys(path.partition(".")[0] for path in paths)
    return f"its parts are {', '.join(list(first)[:12])}"
