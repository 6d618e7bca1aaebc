# SPDX-License-Identifier: Apache-2.0
"""Processes of one run that disagree, die or are preempted end together, and say why.

Each case starts two processes of two simulated devices on this machine, meeting over the loopback.
Printed are their exit codes, the seconds until both had ended, counted from their start or from
what was done to them, and the line that tells why:

- other options, another work directory, or a data set of which half is there: refused with code 2
  before anything is compiled;
- process 1 is killed: process 0 ends within a minute, and names it;
- process 0 is killed, and JAX's coordination service with it: process 1 ends by JAX's own words;
- SIGTERM to process 1: both save one whole checkpoint after the same step, and end with 75;
- the same command then goes on from that step.

Run: python -m evidence.many_hosts
"""

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.results import write
from evidence.runs import start
from evidence.same_steps import free_port
from train.checkpoints.checkpoints import Checkpoints

CONFIG = "configs/mnist5k.py"
LONG = ("--steps", "1000000", "--save-every", "1000000", "--log-every", "2")
LINES = r"error: .*|process \d ends: .*|SIGTERM at .*|going on from .*|Terminating process .*"


class Ending(NamedTuple):
    """How two processes ended."""

    codes: tuple[int, int]
    seconds: float
    outputs: tuple[str, str]

    def why(self, index: int) -> str:
        """Return the line by which a process told why it ended."""
        found = re.findall(LINES, self.outputs[index])
        return found[-1][:230] if found else ""


def begin(workdirs: Sequence[Path], *both: str, own: Sequence[Sequence[str]] = ((), ())):
    meet = ("--processes.coordinator", f"localhost:{free_port()}", "--processes.count", "2")
    return [
        start(CONFIG, workdir, *both, *more, *meet, "--processes.index", str(i), devices=2)
        for i, (workdir, more) in enumerate(zip(workdirs, own, strict=True))
    ]


def end(processes: Sequence[subprocess.Popen], since: float) -> Ending:
    outputs = tuple(process.communicate(timeout=300)[0].decode() for process in processes)
    codes = tuple(process.returncode for process in processes)
    return Ending(codes, time.monotonic() - since, outputs)


def refused(workdirs: Sequence[Path], *both: str, own=((), ())) -> Ending:
    since = time.monotonic()
    return end(begin(workdirs, "--steps", "2", *both, own=own), since)


def interrupted(workdir: Path, victim: int, number: signal.Signals) -> Ending:
    """Send a signal to one of two processes after a few steps."""
    processes = begin([workdir] * 2, *LONG)
    while b"step 6/" not in processes[0].stdout.readline():
        if processes[0].poll() is not None:
            raise SystemExit("the run ended by itself")
    processes[victim].send_signal(number)
    return end(processes, time.monotonic())


def packed(folder: Path, count: int) -> None:
    """Write a data set in which so many training examples are there."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (512, 28, 28, 1), np.uint8)
    labels = np.arange(512, dtype=np.int32) % 10
    np.savez(folder / "train.npz", images=images[:count], labels=labels[:count])
    np.savez(folder / "test.npz", images=images[:64], labels=labels[:64])


def main() -> int:
    results, failures = {}, 0
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)

        def case(name: str, found: Ending, good: Callable[[Ending], bool], teller: int = 0) -> None:
            nonlocal failures
            failures += not good(found)
            results[name] = found._asdict() | {"outputs": found.why(teller)}
            print(f"{'' if good(found) else 'NOT SO: '}{name}: codes {found.codes}, ", end="")
            print(f"{found.seconds:.1f} s\n    {found.why(teller)}", flush=True)

        def is_refused(found: Ending) -> bool:
            return found.codes == (2, 2) and "compiling" not in found.outputs[0]

        same = [root / "a"] * 2
        own = (("--seed", "1"), ("--seed", "2"))
        case("other options", refused(same, own=own), is_refused)
        own = [root / "b", root / "c"]
        case("another work directory", refused(own), is_refused)
        packed(root / "whole", 512)
        packed(root / "half", 256)
        case("half of the data", half_uploaded(root, same), is_refused)

        died = lambda found: found.codes == (1, -9) and found.seconds < 60
        case("process 1 killed", interrupted(root / "d", 1, signal.SIGKILL), died)
        died = lambda found: found.codes[0] == -9 and found.codes[1] and found.seconds < 60
        case("process 0 killed", interrupted(root / "e", 0, signal.SIGKILL), died, teller=1)
        saved = lambda found: found.codes == (75, 75) and len(steps(root / "f")) == 1
        case("SIGTERM to process 1", interrupted(root / "f", 1, signal.SIGTERM), saved)
        (step,) = steps(root / "f")
        more = refused([root / "f"] * 2, *LONG, "--steps", str(step + 2))
        went = lambda found: found.codes == (0, 0) and f"from step {step}" in found.outputs[0]
        case("going on", more, went)
    write("many_hosts", results)
    return int(failures > 0)


def half_uploaded(root: Path, workdirs: Sequence[Path]) -> Ending:
    """Give both processes one path, which leads each to another folder, as on hosts of their own.

    A folder for the working directory of each process, and a path relative to it, do that here.
    """
    processes = []
    meet = ("--processes.coordinator", f"localhost:{free_port()}", "--processes.count", "2")
    since = time.monotonic()
    for i, name in enumerate(("whole", "half")):
        host = root / f"host{i}"
        shutil.copytree(root / name, host / "data")
        given = ("--data.name", "packed", "--data.path", "data", "--steps", "2")
        arguments = (*given, *meet, "--processes.index", str(i))
        processes.append(start(CONFIG, workdirs[i], *arguments, devices=2, folder=host))
    return end(processes, since)


def steps(workdir: Path) -> list[int]:
    checkpoints = Checkpoints(workdir / "checkpoints")
    found = checkpoints.steps()
    for step in found:
        checkpoints.record(step)  # raises unless every file is as it was written
    checkpoints.close()
    return found


if __name__ == "__main__":
    raise SystemExit(main())
