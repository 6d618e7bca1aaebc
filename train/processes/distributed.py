# SPDX-License-Identifier: Apache-2.0
"""Processes of one run, on one host or many."""

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TextIO

import jax
import numpy as np
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

from spectral_flax.messages import reason
from train.config import Processes
from train.errors import AgreedError, InterruptedRunError, UserError
from train.processes.watch import Watch

# After which JAX ends the processes that are left when one dies, a little later than the watch.
HEARTBEAT_SECONDS = 80


@contextlib.contextmanager
def joined(processes: Processes) -> Iterator[None]:
    """Meet the other processes of the run, and part from them at the end of the block.

    Where an exception leaves the block in one process only, the others end too and say why.
    """
    join(processes)
    if global_state.num_processes == 1:
        yield
        return
    watch = Watch()
    try:
        yield
    except BaseException as error:
        match error:
            case AgreedError() | InterruptedRunError():  # which the others raise too
                watch.leave()
            case UserError():
                watch.fail(2, str(error))
            case KeyboardInterrupt():
                watch.fail(130, "Ctrl-C")
            case _:
                watch.fail(1, f"{type(error).__name__}: {reason(error)}")
        raise
    watch.leave()


def join(processes: Processes) -> None:
    """Meet the other processes of the run, if there are any. Comes before any use of a device.

    Under Slurm, Open MPI, Kubernetes and on Cloud TPUs JAX finds coordinator, count and index.

    Raises:
      UserError: they cannot be found or did not come.
    """
    given = (processes.coordinator, processes.count, processes.index)
    if not processes.join and given == (None,) * 3:
        return
    if given != (None,) * 3 and None in given:
        raise UserError(
            "--processes.coordinator, --processes.count and --processes.index go together; "
            f"they are {', '.join(map(str, given))}"
        )
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of the run did not meet: {error}; where no scheduler starts them, give "
            "--processes.coordinator HOST:PORT --processes.count N --processes.index I"
        ) from error
    if processes.log == "all":
        sys.stdout, sys.stderr = (_Numbered(stream) for stream in (sys.stdout, sys.stderr))


class _Numbered(io.TextIOBase):
    """A stream each of whose lines begins with the number of this process."""

    def __init__(self, stream: TextIO):
        self.stream, self.rest = stream, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        # One write a line, lest processes that share a terminal mix theirs.
        self.stream.write("".join(f"[{jax.process_index()}] {line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()


def prints() -> bool:
    """Say whether this process prints: the first, and the others on request."""
    return is_main_process() or isinstance(sys.stdout, _Numbered)


def is_main_process() -> bool:
    """Say whether this is the process that writes what the processes have in common."""
    return jax.process_index() == 0


def log(text: str, file: TextIO | None = None) -> None:
    """Print a line, by default on the standard output, where this process `prints`."""
    if prints():
        print(text, file=file, flush=True)


def any_process(value: int) -> int:
    """Return the largest ``value`` of all processes, which must all call this."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def wait_for_all(what: str) -> None:
    """Return when all processes have come this far."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
