# SPDX-License-Identifier: Apache-2.0
"""The directory of a run, held by one process at a time."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from train.errors import UserError
from train.processes import leads


@contextlib.contextmanager
def hold(path: str) -> Iterator[Path]:
    """Create the directory ``path`` and hold it until the block ends or the process dies.

    Of the processes of a run the first holds it for all.
    """
    workdir = Path(path)
    if not leads():
        yield workdir
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {path!r}: {error.strerror}; give another --workdir"
        ) from error
    with lock:
        try:
            # The kernel releases this lock with the process, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise UserError(
                f"the workdir {path!r} is in use by {holder}; wait for it or give another --workdir"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield workdir
