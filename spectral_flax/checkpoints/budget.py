# SPDX-License-Identifier: Apache-2.0
"""A bound on the memory and the work that reading an untrusted file takes."""

import os
from typing import BinaryIO

# Reading may take this much memory, whatever the file's size, and this many times the size more.
BASE, TIMES = 1 << 26, 3


class Budget:
    """The bytes that reading a file may take: objects built, entries inflated, numbers expanded.

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


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size
