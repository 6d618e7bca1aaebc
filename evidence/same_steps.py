# SPDX-License-Identifier: Apache-2.0
"""Runs on 1 device, 8, and 2 processes of 4 devices take the same steps; checkpoints move freely.

Each way trains the same small FFC-ResNet for 20 steps from the same seed: in the global view, per
device with synchronised statistics, with parameters shared by 2, 4 and 8 devices, and by two
processes. Printed are the largest and the median difference of the arrays (parameters and
statistics) from one device's, each relative to the largest value of its array. Rounding differs
between the ways, and training multiplies such differences at every step, the more the higher its
rate: at 0.02 by two, a million times in 20 steps. A step in two parts differs by more,
since batch normalisation sees the parts one by one. Then the checkpoint of eight devices is
restored on 4, 2 and 1 and under other sharings, takes a step of rate 1e-30, is saved again, and its
parameters are compared bit for bit.

Run: python -m evidence.same_steps [--steps 20] [--rate 0.001]
"""

import argparse
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.results import write
from evidence.runs import arrays, finish, start

CONFIG = "configs/mnist5k.py"
GROUPS = ("params", "rest")


def ways() -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return the devices of a process and the arguments of each way."""
    share = ("--mesh.fsdp-min-size", "256", "--mesh.fsdp")
    return {
        "1 device": (1, ()),
        "8 devices, global view": (8, ()),
        "8 devices, per device": (8, ("--parallel", "pmap")),
        "8 devices, shared by 2": (8, (*share, "2")),
        "8 devices, shared by 8": (8, (*share, "8")),
        "8 devices, two parts a step": (8, ("--accumulate", "2")),
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def two_processes(workdir: Path, *arguments: str) -> None:
    meet = ("--processes.coordinator", f"localhost:{free_port()}", "--processes.count", "2")
    finish(
        *(
            start(CONFIG, workdir, *arguments, *meet, "--processes.index", str(i), devices=4)
            for i in range(2)
        )
    )


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> str:
    """Return the largest and the median difference of an array relative to its largest value."""
    names = [name for name in a if np.issubdtype(a[name].dtype, np.floating)]
    found = [np.abs(a[n] - b[n]).max() / max(np.abs(a[n]).max(), 1e-6) for n in names]
    return f"{np.max(found):.1e}, median {np.median(found):.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.001, help="learning rate")
    given = parser.parse_args()
    steps = given.steps
    common = ("--eval-batch-size", "200", "--steps", str(steps))
    common += ("--optimizer.learning-rate", str(given.rate))
    result, exact, reference = {}, True, None
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for i, (name, (devices, arguments)) in enumerate(ways().items()):
            finish(start(CONFIG, root / str(i), *common, *arguments, devices=devices))
            found = arrays(root / str(i), GROUPS)
            reference = reference or found
            result[name] = difference(reference, found)
            print(f"{name:30} {result[name]}", flush=True)
        for name, arguments in (
            ("2 processes of 4 devices", ()),
            ("2 processes, shared by 8", ("--mesh.fsdp", "8", "--mesh.fsdp-min-size", "256")),
        ):
            two_processes(root / name, *common, *arguments)
            result[name] = difference(reference, arrays(root / name, GROUPS))
            print(f"{name:30} {result[name]}", flush=True)

        eight = arrays(root / "1")
        for name, devices, share in (
            ("8 to 4", 4, 1),
            ("8 to 2", 2, 1),
            ("8 to 1", 1, 1),
            ("8 to 8, shared by 8", 8, 8),
            ("8 to 4, shared by 2", 4, 2),
        ):
            workdir = root / name
            shutil.copytree(root / "1", workdir)
            one = str(steps + 1)
            moved = ("--steps", one, "--optimizer.learning-rate", "1e-30", *common[:2])
            moved += ("--mesh.fsdp", str(share), "--mesh.fsdp-min-size", "256")
            finish(start(CONFIG, workdir, *moved, "--save-every", "1000", devices=devices))
            after = arrays(workdir, ("params",))
            same = all(np.array_equal(after[n], eight[n]) for n in after if n != "position")
            exact &= same
            result[name] = "exact" if same else "DIFFERENT"
            print(f"{name:30} {result[name]}", flush=True)
    write("same_steps", result)
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
