# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be read: each is named once over all processes, and replaced in training."""

import fcntl
import os
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from spectral_flax.buckets import PATIENCE, NoAnswerError
from train.errors import UserError

# After so many unreadable files, drawn at random, something else is wrong.
TRIES = 1000
T = TypeVar("T")


class UnreadableFiles:
    """A list of names kept in a temporary file, which worker processes share.

    All data sets that read files when they are needed read them through it, so that a file that
    cannot be read does not end a run.
    """

    def __init__(self):
        handle, name = tempfile.mkstemp(prefix="broken_files_", suffix=".txt")
        os.close(handle)
        self.log = Path(name)
        # Only the process that made the list removes it: copies in workers come by pickle.
        weakref.finalize(self, self.log.unlink, missing_ok=True)
        self.last = "?"

    def read(self, name: str, load: Callable[[], T]) -> T | None:
        """Return ``load()``; None, and the file noted, if it cannot be read."""
        try:
            return load()
        except ImportError as error:
            raise UserError(str(error)) from error
        except (MemoryError, UserError):
            raise
        except NoAnswerError as error:  # another file in its place would be other training
            raise UserError(
                f"{error}, for {PATIENCE} s; the same command goes on from the last checkpoint"
            ) from error
        except Exception as error:  # decoders raise anything for a damaged file
            self.report(name, error)
            return None

    def readable(self, index: int, count: int, read: Callable[[int], T | None], what: str) -> T:
        """Return ``read(index)``; if it is None, that of another of ``count``, always the same."""
        example = read(index)
        if example is not None:
            return example
        others = np.random.default_rng(index).permutation(count)[:TRIES]
        for other in others:
            example = read(int(other))
            if example is not None:
                return example
        raise UserError(f"{what}: none of {len(others)} files can be read; the last: {self.last}")

    def report(self, name: str, reason: Exception | str) -> None:
        """Note ``name`` and report it on the standard error, unless it is noted already."""
        line = name.replace("\n", " ")
        reason = getattr(reason, "reason", reason)
        self.last = f"{line} ({reason})"
        with self.log.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if line in file.read().splitlines():
                return
            file.write(line + "\n")
        print(f"skipped, cannot be read: {line} ({reason})", file=sys.stderr, flush=True)

    def names(self) -> list[str]:
        """Return the files noted so far, by all processes of this machine."""
        return self.log.read_text().splitlines() if self.log.exists() else []
