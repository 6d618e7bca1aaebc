# SPDX-License-Identifier: Apache-2.0
"""Runs killed at random moments and resumed end in the same bits as one that never stopped.

One run is left alone; another is killed with SIGKILL (or told to stop with SIGTERM) at random
moments after its start, among them while it starts, steps, evaluates and saves, and started again
each time. At the end every array of the last checkpoints is compared byte for byte: parameters,
batch statistics, optimiser state, random keys; and the position in the data.

Run: python -m evidence.kill_and_resume [--kills 5] [--terms 0] [--steps 120] [--seed 0]
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import write
from evidence import runs
from evidence.runs import arrays, finish


def start(workdir: Path, steps: int, arguments: list[str]) -> subprocess.Popen:
    every = ("--steps", str(steps), "--save-every", "10", "--log-every", "1")
    return runs.start("configs/mnist5k.py", workdir, *every, *arguments)


def wait_for(process: subprocess.Popen, target: int) -> int:
    """Read the run's output until it has done ``target`` steps."""
    told = ""
    for line in process.stdout:
        told += line.decode()
        words = line.decode().split()
        if words[:1] == ["step"] and (step := int(words[1].split("/")[0])) >= target:
            return step
    raise SystemExit(f"the run ended with {process.wait()} before step {target}:\n{told}")


def last_step(workdir: Path) -> int:
    saved = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    return max(saved, default=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5, help="SIGKILLs")
    parser.add_argument("--terms", type=int, default=0, help="SIGTERMs")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given, arguments = parser.parse_known_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as directory:
        unbroken, broken = Path(directory, "unbroken"), Path(directory, "broken")
        finish(start(unbroken, given.steps, arguments))
        signals = [signal.SIGKILL] * given.kills + [signal.SIGTERM] * given.terms
        rng.shuffle(signals)
        moments = []
        for i, number in enumerate(signals):
            process = start(broken, given.steps, arguments)
            if rng.random() < 0.2:
                moment = "while starting"
                time.sleep(rng.uniform(0.2, 6))
            else:
                target = int(given.steps * (i + rng.random()) / len(signals))
                moment = f"after step {wait_for(process, target)}"
                time.sleep(rng.uniform(0, 0.3))
            process.send_signal(number)
            process.communicate()
            saved = last_step(broken)
            moments.append({"signal": number.name, "moment": moment, "saved": saved})
            print(f"{number.name} {moment}, exit code {process.returncode}; saved: step {saved}")
        finish(start(broken, given.steps, arguments))

        a, b = arrays(unbroken), arrays(broken)
        same = a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
        print(f"{len(a)} arrays, {'all equal bit for bit' if same else 'DIFFERENT'}")
    result = {"steps": given.steps, "signals": moments, "arrays": len(a), "equal": same}
    write("kill_and_resume", result)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
