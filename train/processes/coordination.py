# SPDX-License-Identifier: Apache-2.0
"""Words between the processes of a run, by JAX's coordination service: no device takes part.

JAX has no public name for the client of that service; Orbax takes it from the same place.
"""

import contextlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from jax._src.distributed import global_state

from spectral_flax.messages import reason, shown
from train.errors import AgreedError, UserError

PREFIX = "spectral_flax"
WAIT_SECONDS = 1800  # for the slowest to list its data
_exchanges = itertools.count()


def exchange(text: str) -> list[str]:
    """Return the texts of all processes in the order of their indices; all must call this.

    Raises:
      UserError: one of them did not come.
    """
    count, client = global_state.num_processes, global_state.client
    if count == 1:
        return [text]
    place = f"{PREFIX}/exchange/{next(_exchanges)}"
    client.key_value_set(f"{place}/{global_state.process_id}", text)
    try:
        client.wait_at_barrier(place, WAIT_SECONDS * 1000)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"the processes of the run did not meet: {reason(error)}") from error
    found = dict(client.key_value_dir_get(place))
    return [found[f"{place}/{i}"] for i in range(count)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raise the faults that any process finds in the block in all of them.

    A process that refuses its input would leave the others waiting. Within the block they must not
    wait for one another.

    Raises:
      AgreedError: a UserError was raised in the block, here or in another process.
    """
    if global_state.num_processes == 1:
        yield
        return
    fault = None
    try:
        yield
    except UserError as error:
        fault = error
    faults = exchange("" if fault is None else str(fault) or type(fault).__name__)
    if any(faults):
        raise AgreedError(_told(faults)) from fault


def agree(facts: Mapping[str, str], remedy: str) -> None:
    """Refuse to go on unless ``facts``, texts by name, are the same in all processes.

    Raises:
      AgreedError: names what differs from process 0, and then says the ``remedy``.
    """
    first = json.loads(exchange(json.dumps(facts) if global_state.process_id == 0 else "{}")[0])
    with together():
        pairs = {name: (first.get(name), facts.get(name)) for name in first | facts}
        told = [
            f"{name} is {shown(there)} in process 0, {shown(here)} here"
            for name, (there, here) in pairs.items()
            if there != here
        ]
        if told:
            more = f" and {len(told) - 3} more" if len(told) > 3 else ""
            raise UserError(f"{'; '.join(told[:3])}{more}; {remedy}")


def agree_on_folder(folder: Path, seconds: float = 10.0) -> None:
    """Refuse to go on unless every process sees the ``folder`` of process 0.

    Process 0 writes a file of a name that nobody has looked up before, since network file systems
    remember what was not there; the others look for it for so many ``seconds``.

    Raises:
      AgreedError: names the processes that do not see it.
    """
    if global_state.num_processes == 1:
        return
    main = global_state.process_id == 0
    token = exchange(f".seen_{secrets.token_hex(8)}")[0]
    file = folder / token
    try:
        with together():
            if main:
                try:
                    file.write_text(str(os.getpid()))
                except OSError as error:
                    raise UserError(f"cannot write to {str(folder)!r}: {reason(error)}") from error
        with together():
            end = time.monotonic() + seconds
            while not file.exists():
                if time.monotonic() > end:
                    raise UserError(
                        f"the work directory {str(folder)!r} is not that of process 0; give all "
                        "processes a --workdir on a file system that they share"
                    )
                time.sleep(0.2)
    finally:
        if main:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _told(faults: list[str]) -> str:
    """Return the faults of the processes, each with those that have it; one that all have alone."""
    places: dict[str, list[int]] = {}
    for index, fault in enumerate(faults):
        if fault:
            places.setdefault(fault, []).append(index)
    if list(places.values()) == [list(range(len(faults)))]:
        return faults[0]
    lines = [f"{_named(indices)}: {fault}" for fault, indices in places.items()]
    more = [f"and {len(lines) - 5} other faults"] if len(lines) > 5 else []
    return "\n".join([*lines[:5], *more])


def _named(indices: list[int]) -> str:
    if len(indices) == 1:
        return f"process {indices[0]}"
    more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
    return f"processes {', '.join(map(str, indices[:8]))}{more}"
