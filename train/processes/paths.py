# SPDX-License-Identifier: Apache-2.0
"""Paths given by users, and free names for files that are moved aside."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectral_flax import buckets
from spectral_flax.files import any_fault, any_path, exists, path_fault, rename
from spectral_flax.messages import message, shown
from train.errors import UserError


def local_path(name: str, path: Any) -> str:
    """Return the local path that the option ``name`` gives, with ``~`` expanded.

    Raises:
      UserError: it is empty, an address such as ``gs://bucket/run``, or no path at all.
    """
    return _checked(name, path, path_fault)


def given_path(name: str, path: Any) -> str:
    """Return the path that the option ``name`` gives: a local one, or one in a bucket.

    Raises:
      UserError: it is neither, or what reads buckets is not installed.
    """
    return _checked(name, path, any_fault)


def opened_path(name: str, path: Any) -> "buckets.Path":
    """Return the path that the option ``name`` gives, of a bucket that can be read if of one.

    Raises:
      UserError: there is no such bucket, or it may not be read.
    """
    found = any_path(given_path(name, path))
    try:
        if buckets.is_remote(found):
            buckets.check_bucket(found)
    except OSError as error:
        raise UserError(f"{name} is {path}: {message(error, 500)}") from error
    return found


def _checked(name: str, path: Any, fault_of: Callable[[Any], str | None]) -> str:
    fault = fault_of(path) if isinstance(path, str | os.PathLike) else "expected a path"
    if fault is not None:
        raise UserError(f"{name} is {shown(repr(path))}; {fault}")
    text = os.fspath(path)
    return text.rstrip("/") if buckets.is_address(text) else os.path.expanduser(path)


def set_aside(path: Path) -> Path | None:
    """Rename what is at ``path``, if anything, to the first free ``STEM.before_N.SUFFIX``."""
    if not exists(path):
        return None
    return move_to_free(path, lambda n: path.with_name(f"{path.stem}.before_{n}{path.suffix}"))


def move_to_free(path: Path, target: Any, first: int = 1) -> Path:
    """Rename ``path`` to the first ``target(N)``, counted from ``first``, that does not exist."""
    number = first
    while exists(target(number)):
        number += 1
    rename(path, target(number))
    return target(number)
