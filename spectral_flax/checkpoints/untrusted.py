# SPDX-License-Identifier: Apache-2.0
"""What readers of files from elsewhere need: a budget, and regular files."""

import os
import pathlib
import stat
from typing import BinaryIO

# Reading may take this much memory, whatever the file's size, and this many times the size more.
BASE, TIMES = 1 << 26, 3


class Budget:
    """What reading a file may cost in bytes: objects built, entries inflated, numbers spread out.

    The allowance is proportional to the size of the file, so that a small file can not fill the
    memory. Objects count when they are made, also those that are dropped again: it bounds the
    work, too.
    """

    def __init__(self, size: int):
        self.size = size
        self.left = TIMES * size + BASE
        self.instructions = 2 * size + 100_000  # of a pickle; each takes a byte where not deflated

    def spend(self, count: int) -> None:
        """Take ``count`` bytes; raise ValueError where they are not left."""
        self.left -= count
        if self.left < 0:
            raise ValueError(
                f"it swells: {self.size} bytes of file may take "
                f"{TIMES * self.size + BASE} bytes of memory"
            )


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


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_small(path: str | os.PathLike, limit: int = 1 << 24) -> bytes:
    """Return the bytes of a regular file; raise ValueError, naming it, beyond ``limit`` bytes."""
    path = pathlib.Path(path)
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except ValueError as error:
        raise ValueError(f"{path} can not be read: {error}") from error
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return data
