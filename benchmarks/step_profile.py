# SPDX-License-Identifier: Apache-2.0
"""Profiles of whole calls, for TensorBoard or Perfetto, and the operations that take longest.

Run: python -m benchmarks.step_profile --out FOLDER [--only ffc_resnet50_lfu] [--quick]
"""

import argparse
import collections
import gzip
import json
from pathlib import Path

import jax

from benchmarks.cases import SUITES
from benchmarks.sides import ours

PROFILED = (("models", "ffc_resnet50_lfu"), ("operators", "fourier_unit"))
CALLS = 3


def longest(folder: Path, count: int = 25) -> list[tuple[str, float]]:
    """Return the operations of a trace that took most of the time, in milliseconds a call."""
    spent: collections.Counter[str] = collections.Counter()
    for path in folder.rglob("*.trace.json.gz"):
        with gzip.open(path, "rt") as file:
            events = json.load(file)["traceEvents"]
        for event in events:
            if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
                spent[event["name"]] += event["dur"] / 1e3 / CALLS
    return spent.most_common(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="names of cases")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    given = parser.parse_args()
    for suite, name in PROFILED:
        if given.only and name not in given.only:
            continue
        case = SUITES[suite][name]
        shape = (case.quick if given.quick else case.shapes)[0]
        call = ours(suite, name, shape, case.works[-1], given.precision)
        call.run(2)
        with jax.profiler.trace(str(given.out / name)):
            call.run(CALLS)
        print(f"{name}, {case.works[-1]}, {shape}: milliseconds a call")
        for operation, milliseconds in longest(given.out / name):
            print(f"{milliseconds:10.3f}  {operation}")


if __name__ == "__main__":
    main()
