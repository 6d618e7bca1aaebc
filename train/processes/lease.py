# SPDX-License-Identifier: Apache-2.0
"""A lease on a work directory in a bucket, where there is no lock that ends with its process.

The lease is an object that its holder writes anew every few seconds. Whoever writes it says of
which generation it must be, so that of two that try one succeeds. One that was not renewed for
`SECONDS`, by the bucket's own clock, is that of a dead run, and is taken over.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from spectral_flax import buckets
from spectral_flax.messages import message, reason, shown
from train.errors import UserError
from train.processes.distributed import is_main_process, log

NAME = "lease.json"
SECONDS = 30  # without a sign of life after which a holder is dead
RENEWAL = 5  # seconds between two signs of life
LOST = 2  # exit code of a run whose lease another has taken over


@contextlib.contextmanager
def lease(workdir: "buckets.Path") -> Iterator[None]:
    """Hold the lease of a work directory until the block ends; another's is waited for to expire.

    Of the processes of a run the first holds it for all; the others look whether there is a bucket.

    Raises:
      UserError: another run holds it, and is alive; or the bucket cannot be read and written.
    """
    path = workdir / NAME
    try:
        buckets.check_bucket(workdir)
        held = _taken(path) if is_main_process() else None
    except OSError as error:
        raise UserError(f"cannot use the workdir {workdir}: {message(error, 500)}") from error
    if held is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, held, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(SECONDS)
        with contextlib.suppress(OSError):  # it expires
            buckets.remove_version(path, held[0])


def _taken(path: "buckets.Path") -> list[str]:
    """Take the lease and return its generation, in a list that renewals change."""
    seen = None
    while True:
        found = buckets.read_version(path)
        if found is not None and found.age < SECONDS:
            if seen is not None and found.generation != seen:
                raise UserError(
                    f"the workdir {str(path.parent)!r} is in use by {_holder(found.data)}; wait "
                    "for it or give another --workdir"
                )
            if seen is None:
                log(f"{path.parent} was in use by {_holder(found.data)} {found.age:.0f} s ago; "
                    f"waiting for a sign of life, {SECONDS - found.age:.0f} s at most")  # fmt: skip
            seen = found.generation
            time.sleep(1)
            continue
        generation = buckets.replace_version(path, _content(), found.generation if found else "0")
        if generation is not None:
            if found is not None:
                log(f"took over the lease of {_holder(found.data)}, dead for {found.age:.0f} s")
            return [generation]
        mine = buckets.read_version(path)  # perhaps of a request that was repeated
        if mine is not None and mine.data == _content():
            return [mine.generation]


def _renew(path: "buckets.Path", held: list[str], ended: threading.Event) -> None:
    """Renew the lease until ``ended``; end the process at once if another has taken it over.

    At once, since whatever this process still wrote would fall among what the other writes.
    """
    troubled = False
    while not ended.wait(RENEWAL):
        try:
            generation = buckets.replace_version(path, _content(), held[0])
            if generation is None:
                now = buckets.read_version(path)
                generation = now.generation if now and now.data == _content() else None
                if generation is None:
                    who = _holder(now.data) if now else "nobody"
                    told = f"error: the lease {path} has been taken over by {who}; stopped at once"
                    log(told, sys.stderr)
                    os._exit(LOST)
        except OSError as error:  # the bucket may answer again
            if not troubled:
                log(f"cannot renew the lease of the workdir: {reason(error)}; trying again")
            troubled = True
            continue
        troubled, held[0] = False, generation


_OURS = os.urandom(8).hex()


def _content() -> bytes:
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    return json.dumps({"holder": holder, "key": _OURS}).encode()


def _holder(content: bytes) -> str:
    try:
        return shown(json.loads(content)["holder"], 100)
    except (ValueError, KeyError, TypeError):
        return "another program"
