# SPDX-License-Identifier: Apache-2.0
"""Paths that users give, and files of a run that take their place without harm to others."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spectral_flax.messages import shown
from train.errors import UserError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def local_path(name: str, path: Any) -> str:
    """Return the path that the option ``name`` gives, with ``~`` expanded.

    Raises:
      UserError: it is empty, a URL such as ``gs://bucket/run``, or no path at all.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{name} is {shown(repr(path))}; expected a path")
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{name} is {shown(repr(text))}; expected a path, not an empty one")
    if "\0" in text:
        raise UserError(f"{name} is {shown(repr(text))}; expected a path without a null character")
    scheme = _SCHEME.match(text)
    if scheme:
        raise UserError(
            f"{name} is {shown(repr(text))}; expected a local path: {shown(scheme[0])} is not "
            "supported (mount the bucket, or copy it)"
        )
    try:
        return os.fspath(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise UserError(f"{name} is {shown(repr(text))}; there is no such user") from error


def set_aside(path: Path) -> Path | None:
    """Rename what is at ``path``, if anything, to the first free ``STEM.before_N.SUFFIX``."""
    if not os.path.lexists(path):
        return None
    return move_to_free(path, lambda n: path.with_name(f"{path.stem}.before_{n}{path.suffix}"))


def move_to_free(path: Path, target: Any, first: int = 1) -> Path:
    """Rename ``path`` to the first ``target(N)``, counted from ``first``, that does not exist."""
    number = first
    while os.path.lexists(target(number)):
        number += 1
    path.rename(target(number))
    return target(number)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft to write in the block; afterwards it is at ``path``, or nothing has changed.

    Whoever reads meanwhile finds the file before.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
