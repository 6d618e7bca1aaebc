# SPDX-License-Identifier: Apache-2.0
"""Processes of one run, on one host or many."""

from typing import TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from train.config import Processes
from train.errors import UserError


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
        jax.distributed.initialize(*given)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of the run did not meet: {error}; where no scheduler starts them, give "
            "--processes.coordinator HOST:PORT --processes.count N --processes.index I"
        ) from error


def is_main_process() -> bool:
    """Say whether this is the process that prints and writes what the processes have in common."""
    return jax.process_index() == 0


def log(text: str, file: TextIO | None = None) -> None:
    """Print a line from the first process, for all of them; on the standard output by default."""
    if is_main_process():
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
