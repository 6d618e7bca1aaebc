# SPDX-License-Identifier: Apache-2.0
"""Local files: opened only if regular, written whole or not at all, replaced only on request."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from spectral_flax.messages import several, shown


def local_path(path: str | os.PathLike, name: str = "path") -> pathlib.Path:
    """Return a local path, ``~`` expanded.

    Raises ValueError, naming the argument, for what is no local path (`path_fault`), TypeError for
    what is neither text nor a path.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{name}={shown(text)}; expected a path as text")
    fault = path_fault(text)
    if fault is not None:
        raise ValueError(f"{name}={text!r}; {fault}")
    return pathlib.Path(text).expanduser()


def path_fault(path: str | os.PathLike) -> str | None:
    """Return why ``path`` is no local path, or None if it is one.

    It may be empty, the address of a bucket or a server, or in the home of an unknown user.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip():
        return "expected a path"
    if "\0" in text:
        return "expected a path without a null character"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        return "expected a local path, not an address: mount the bucket, or copy it"
    try:
        pathlib.Path(text).expanduser()
    except RuntimeError:
        return "expected a path, but there is no such user"
    return None


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading; raise ValueError at once for what is no regular file.

    A named pipe would block until somebody writes to it, and a device may never end.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        # Another file may have taken its place since: neither wait for it nor believe it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return open(descriptor, "rb")
        os.close(descriptor)
    kinds = (kind for is_kind, kind in _KINDS.items() if is_kind(mode))
    raise ValueError(f"it is {next(kinds, 'of an unknown kind')}, not a regular file")


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def read_small(path: str | os.PathLike, limit: int) -> bytes:
    """Return the bytes of a regular file; raise ValueError if there are more than ``limit``."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is longer than {limit} bytes")
    return data


@contextlib.contextmanager
def new_file(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield the path of a draft, which is renamed to ``path`` unless an error is raised.

    Raises:
      FileExistsError: ``path`` exists and ``overwrite`` is not set; it is left unchanged.
      IsADirectoryError: ``path`` is a directory, which a file never replaces.
    """
    path = local_path(path)
    refuse_existing([path], overwrite=overwrite)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; a file does not take its place")
    draft = _draft_beside(path)
    try:
        with _told_of(path, draft):
            yield draft
            refuse_existing(
                [path], overwrite=overwrite
            )  # another process may have written it since
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield the path for a draft folder, which is renamed to ``path``; see `new_file`.

    An overwritten folder is replaced with all its contents.
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


def refuse_existing(paths: Iterable[pathlib.Path], *, overwrite: bool) -> None:
    """Raise FileExistsError, naming them, if any of ``paths`` exist."""
    there = [] if overwrite else [repr(str(path)) for path in paths if os.path.lexists(path)]
    if there:
        verb = "exist" if len(there) > 1 else "exists"
        raise FileExistsError(
            f"{several(there)} {verb}; replaced only if asked for: overwrite=True, --overwrite"
        )


def _draft_beside(path: pathlib.Path) -> pathlib.Path:
    return path.absolute().parent / f".{secrets.token_hex(6)}.tmp"


@contextlib.contextmanager
def _told_of(path: pathlib.Path, draft: pathlib.Path) -> Iterator[None]:
    """Name ``path`` instead of its draft in an error of the system."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not str(error.filename).startswith(str(draft)):
            raise
        reason = os.strerror(error.errno)
        if error.errno == errno.ENOENT:
            reason = f"there is no folder {path.absolute().parent}"
        raise type(error)(error.errno, reason, str(path)) from error
