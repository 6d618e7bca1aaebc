# SPDX-License-Identifier: Apache-2.0
"""Parts of a model by name: what ``skip`` means, wherever it is an option.

A part is a dotted path, or a glob over dotted paths, and all that lies below: ``head``,
``stage1.0``, ``inserted.*.transform.rows``, ``*.norm``.
"""

import fnmatch
from collections.abc import Iterable, Sequence


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
