# SPDX-License-Identifier: Apache-2.0
"""Work directory of a run, held by one run at a time: by a lock, in a bucket by a lease."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from spectral_flax import buckets
from spectral_flax.files import any_path
from spectral_flax.messages import reason, shown
from train.errors import UserError
from train.processes.distributed import is_main_process
from train.processes.lease import lease
from train.processes.paths import given_path


@contextlib.contextmanager
def lock(path: str) -> Iterator[Path]:
    """Create the directory ``path`` and hold it until the block ends or the process dies.

    Of the processes of a run the first holds it for all.

    Raises:
      UserError: another run holds it, or it cannot be read and written.
    """
    path = given_path("--workdir", path)
    workdir = any_path(path)
    with lease(workdir) if buckets.is_remote(workdir) else _file_lock(path, workdir):
        yield workdir


@contextlib.contextmanager
def _file_lock(path: str, workdir: Path) -> Iterator[None]:
    """Hold a lock on the file ``.lock``.

    The package filelock would empty the file, which names the holder, and may be somebody's own.
    """
    if not is_main_process():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "ab+")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to the workdir {path!r}: {reason(error)}; give another --workdir"
        ) from error
    with lock:
        try:
            # The kernel releases this lock with the process, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise UserError(f"the workdir {path!r} has no locks: {reason(error)}") from error
            holder = _holder(lock) or "another process"
            raise UserError(
                f"the workdir {path!r} is in use by {holder}; wait for it or give another --workdir"
            ) from error
        holder = _holder(lock)
        if not holder or holder.startswith("process "):  # else a file that is somebody else's
            with contextlib.suppress(OSError):  # a full disk: the lock itself needs no room
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                lock.flush()
        yield


def _holder(lock: BinaryIO) -> str:
    lock.seek(0)
    return shown(lock.read(300).decode(errors="backslashreplace").strip(), 100)
