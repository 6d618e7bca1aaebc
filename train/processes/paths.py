# SPDX-License-Identifier: Apache-2.0
"""Paths given by users, and free names for files that are moved aside."""

import os
from pathlib import Path
from typing import Any

from spectral_flax.files import path_fault
from spectral_flax.messages import shown
from train.errors import UserError


def local_path(name: str, path: Any) -> str:
    """Return the path that the option ``name`` gives, with ``~`` expanded.

    Raises:
      UserError: it is empty, a URL such as ``gs://bucket/run``, or no path at all.
    """
    fault = path_fault(path) if isinstance(path, str | os.PathLike) else "expected a path"
    if fault is not None:
        raise UserError(f"{name} is {shown(repr(path))}; {fault}")
    return os.path.expanduser(path)


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
