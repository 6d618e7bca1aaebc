# SPDX-License-Identifier: Apache-2.0
"""Files that cannot be read: each named once, whichever process comes across it."""

import fcntl
import os
import sys
import tempfile
import weakref
from pathlib import Path


class BrokenFiles:
    """A list of names kept in a temporary file, which worker processes share."""

    def __init__(self):
        handle, name = tempfile.mkstemp(prefix="broken_files_", suffix=".txt")
        os.close(handle)
        self.log = Path(name)
        # Only the process that made the list removes it: copies in workers come by pickle.
        weakref.finalize(self, self.log.unlink, missing_ok=True)

    def report(self, name: str, reason: Exception | str) -> None:
        """Note ``name`` and say so on the standard error, unless it is noted already."""
        line = name.replace("\n", " ")
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
