# SPDX-License-Identifier: Apache-2.0
"""Files: opened only if regular, written whole or not at all, replaced only on request.

Local ones, and where a function says so objects in `buckets`.
"""

import contextlib
import errno
import io
import os
import pathlib
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from spectral_flax import buckets
from spectral_flax.messages import several, shown

if TYPE_CHECKING:
    from spectral_flax.buckets import Path

T = TypeVar("T")
CACHE = "SPECTRAL_FLAX_CACHE"


def cache_folder() -> pathlib.Path:
    """Return the folder of what can be made or downloaded again: `CACHE`, or that of the user."""
    if os.environ.get(CACHE):
        return pathlib.Path(os.environ[CACHE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "spectral_flax"


def any_path(path: str | os.PathLike[str], name: str = "path") -> "Path":
    """Return a local path, ``~`` expanded, or that of an address in a bucket.

    Raises ValueError, naming the argument, for anything else; see `local_path`.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not buckets.is_address(text):
        return local_path(path, name)
    fault = buckets.address_fault(text)
    if fault is not None:
        raise ValueError(f"{name}={text!r}; {fault}")
    return buckets.bucket_path(text)


def any_fault(path: str | os.PathLike) -> str | None:
    """Return why ``path`` is neither a local path nor an address in a bucket, or None if it is."""
    text = os.fspath(path)
    is_address = isinstance(text, str) and buckets.is_address(text)
    return buckets.address_fault(text) if is_address else path_fault(text)


def local_path(path: str | os.PathLike[str], name: str = "path") -> pathlib.Path:
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
    if buckets.is_address(text):
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


def read_small(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the bytes of a regular file; raise ValueError if there are more than ``limit``."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is longer than {limit} bytes")
    return data


@contextlib.contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield the path of a draft, which is renamed to ``path`` unless an error is raised.

    The draft of an object in a bucket is a local file, which is sent there.

    Raises:
      FileExistsError: ``path`` exists and ``overwrite`` is not set; it is left unchanged.
      IsADirectoryError: ``path`` is a directory, which a file never replaces.
    """
    path = any_path(path)
    refuse_existing([path], overwrite=overwrite)
    if buckets.is_remote(path):
        with _sent_to(path) as draft:
            yield draft
        return
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
def new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """Yield the path for a draft folder, which is renamed to ``path``; see `new_file`.

    An overwritten folder is replaced with all its contents.
    """
    path = any_path(path)
    refuse_existing([path], overwrite=overwrite)
    if buckets.is_remote(path):
        with _sent_to(path) as draft:
            yield draft
            if path.exists():
                path.rmtree()
        return
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
    there = [] if overwrite else [repr(str(path)) for path in paths if exists(path)]
    if there:
        verb = "exist" if len(there) > 1 else "exists"
        raise FileExistsError(
            f"{several(there)} {verb}; replaced only if asked for: overwrite=True, --overwrite"
        )


def exists(path: "Path") -> bool:
    """Return whether a file, a folder, a link or an object is there."""
    return path.exists() if buckets.is_remote(path) else os.path.lexists(path)


def rename(path: "Path", target: "Path") -> None:
    """Give a file or folder another name in the same place."""
    if buckets.is_remote(path):
        buckets.move(path, target)
    else:
        path.rename(target)


def read_bytes(path: "Path") -> bytes:
    """Return the content of a file or object."""
    return buckets.read_bytes(path) if buckets.is_remote(path) else path.read_bytes()


def in_memory(file: T) -> T | io.BytesIO:
    """Return an object of a bucket, given by its path or address, as an open file in memory.

    Anything else is returned as it is. Raises ValueError for an address of another kind.
    """
    if isinstance(file, str) and buckets.is_address(file) and not os.path.lexists(file):
        file = any_path(file, "file")
    is_path = isinstance(file, os.PathLike)
    return io.BytesIO(buckets.read_bytes(file)) if is_path and buckets.is_remote(file) else file


def is_empty_file(path: "Path") -> bool:
    """Return whether a local file, itself and no link to one, holds nothing."""
    local = not buckets.is_remote(path)
    return local and path.is_file() and not path.is_symlink() and not path.stat().st_size


def is_gone(folder: "Path") -> bool:
    """Return whether a folder that was made is there no longer; a bucket has none to miss."""
    return not buckets.is_remote(folder) and not folder.is_dir()


@contextlib.contextmanager
def _sent_to(path: "Path") -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as folder:
        draft = pathlib.Path(folder, path.name)
        yield draft
        buckets.send(draft, path)


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
