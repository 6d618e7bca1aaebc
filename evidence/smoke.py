# SPDX-License-Identifier: Apache-2.0
"""Every recipe of ImageNet and Kinetics trains, in its laptop-sized variant, on digits.

Printed are the accuracies on the held-out digits. The label of a moving digit is four times the
digit plus the direction, so both parts are given too. Who does not see the order of the frames is
right about the direction at most every second time.

Run: python -m evidence.smoke [PATTERN ...] [--steps N], such as "kinetics:*bat3d"
"""

import argparse
import fnmatch
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.results import write
from evidence.runs import ROOT, finish, start

DIRECTIONS = 4
CONFIGS = ("imagenet", "imagenet_compared", "kinetics", "kinetics_compared")


def names() -> list[str]:
    found = []
    for config in CONFIGS:
        variants = runpy.run_path(str(ROOT / "configs" / f"{config}.py"))["variants"]
        found += [f"{config}:{name}" for name in variants if name.endswith("_smoke")]
    return [name.removesuffix("_smoke") for name in found]


def accuracies(workdir: Path, video: bool) -> dict[str, float]:
    """Evaluate a run and return the parts of its accuracy."""
    output = workdir / "evaluation"
    command = [sys.executable, "-m", "train.evaluate", "--workdir", str(workdir)]
    subprocess.run([*command, "--output", str(output)], cwd=ROOT, check=True, capture_output=True)
    with np.load(output / "confusion.npz") as file:
        confusion = file[file.files[0]]
    truth, chosen = np.indices(confusion.shape)
    parts = {"accuracy": truth == chosen}
    if video:
        parts["digit"] = truth // DIRECTIONS == chosen // DIRECTIONS
        parts["direction"] = truth % DIRECTIONS == chosen % DIRECTIONS
    return {name: float(confusion[same].sum() / confusion.sum()) for name, same in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--steps", type=int, help="in place of the recipe's own number")
    given = parser.parse_args()
    steps = ("--steps", str(given.steps)) if given.steps else ()
    rows = {}
    for name in names():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in given.patterns):
            continue
        config, _, model = name.partition(":")
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            finish(start(f"configs/{config}.py:{model}_smoke", Path(directory), *steps))
            seconds = time.perf_counter() - began
            rows[name] = accuracies(Path(directory), config.startswith("kinetics")) | {
                "seconds": seconds
            }
        figures = "  ".join(f"{part} {value:.3f}" for part, value in rows[name].items())
        print(f"{name:32} {figures}", flush=True)
    write("smoke", rows)


if __name__ == "__main__":
    main()
