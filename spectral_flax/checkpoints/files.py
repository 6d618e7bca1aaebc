# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all, and take no other's place unasked."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator

from spectral_flax.messages import shown


def local_path(path: str | os.PathLike, name: str = "path") -> pathlib.Path:
    """Return a path of this machine, ``~`` expanded.

    Raises ValueError, naming the argument, for what would silently be another file: no text at
    all, or the address of a bucket or a server. TypeError for what is neither text nor a path.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{name}={shown(text)}; expected a path as text")
    if not text.strip() or "\0" in text:
        raise ValueError(f"{name}={text!r} is not a path")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ValueError(f"{name}={text!r} is an address; expected a path on this machine")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}={text!r}: {error}") from error


@contextlib.contextmanager
def new_file(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Give a place to write to, whose file then takes the name ``path``, unless an error is raised.

    Raises:
      FileExistsError: there is something at ``path``, and ``overwrite`` is not set; what is there
        stays. A directory is never overwritten by a file.
    """
    path = local_path(path)
    refuse_existing([path], overwrite=overwrite)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; a file does not take its place")
    draft = _draft_beside(path)
    try:
        with _told_of(path, draft):
            yield draft
            refuse_existing([path], overwrite=overwrite)  # another may have been faster
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Give a place to make a folder at, which then takes the name ``path``, as `new_file` does.

    A folder that is overwritten is replaced with all it holds.
    """
    path = local_path(path)
    refuse_existing([path], overwrite=overwrite)
    draft, old = _draft_beside(path), _draft_beside(path)
    try:
        with _told_of(path, draft):
            yield draft
            refuse_existing([path], overwrite=overwrite)
            if path.is_dir():
                os.rename(path, old)
            try:
                os.replace(draft, path)
            except OSError:
                if old.exists():
                    os.rename(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_existing(paths: list[pathlib.Path], *, overwrite: bool) -> None:
    """Raise FileExistsError, naming them all, if something stands at any of ``paths``."""
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there and not overwrite:
        verb = "exist" if len(there) > 1 else "exists"
        raise FileExistsError(
            f"{', '.join(there)} {verb}; replaced only if asked for: overwrite=True, --overwrite"
        )


def _draft_beside(path: pathlib.Path) -> pathlib.Path:
    return path.absolute().parent / f".{secrets.token_hex(6)}.tmp"


@contextlib.contextmanager
def _told_of(path: pathlib.Path, draft: pathlib.Path) -> Iterator[None]:
    """Name the file that was asked for, and not its draft, in an error of the system."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not str(error.filename).startswith(str(draft)):
            raise
        reason = os.strerror(error.errno)
        if error.errno == errno.ENOENT:
            reason = f"there is no folder {path.absolute().parent}"
        raise type(error)(error.errno, reason, str(path)) from error
