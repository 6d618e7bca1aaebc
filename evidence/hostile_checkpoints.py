# SPDX-License-Identifier: Apache-2.0
"""Files made to exhaust whoever reads them cost memory and time in proportion to their size only.

Each kind of attack is made in three sizes and read in a process of its own. Printed are the
outcome, the peak of memory over 4 times the file and 200 MB (at most 1 is right), and the exponent
of CPU time in the file's size, by a fit over the three (about 1, or 0 for what is refused at once;
2 would be quadratic).

Run: python -m evidence.hostile_checkpoints [--bytes 250000] [--kind NAME] [--json FILE]
"""

import argparse
import json
import math
import multiprocessing
import pathlib
import tempfile
import time

from benchmarks.read_checkpoint import peak_memory
from evidence.hostile_files import KINDS


def read(path: pathlib.Path) -> str:
    """Read the file as a program would, which makes arrays of the tensors; return the outcome."""
    import numpy as np

    from spectral_flax.checkpoints.torch.reader import read_torch

    try:
        tensors = read_torch(path).tensors
    except ValueError as error:
        if len(str(error)) > 3000 or not str(error).isprintable():
            return "UNBOUNDED MESSAGE"
        return "refused"
    copies = [np.ascontiguousarray(array) for array in tensors.values()]
    return f"read ({len(copies)})"


def _measured(path: pathlib.Path, results) -> None:
    before, start = peak_memory(), time.process_time()
    outcome = read(path)
    results.put((outcome, time.process_time() - start, peak_memory() - before))


def measure(kind: str, sizes: tuple[int, ...]) -> dict:
    """Return outcome, memory over the bound and the exponent of CPU time for a kind of attack."""
    context = multiprocessing.get_context("fork")  # its peak of memory begins where it is forked
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "hostile.pth"
        for size in sizes:
            path.write_bytes(KINDS[kind](size))
            results = context.Queue()
            process = context.Process(target=_measured, args=(path, results))
            process.start()
            outcome, seconds, peak = results.get(timeout=600)
            process.join()
            rows.append((path.stat().st_size, outcome, seconds, peak))
    bounded = [peak / (4 * size + 200e6) for size, _, _, peak in rows]
    logs = [(math.log(size), math.log(max(seconds, 1e-3))) for size, _, seconds, _ in rows]
    return {
        "kind": kind,
        "outcome": rows[-1][1],
        "bytes": rows[-1][0],
        "seconds": [round(row[2], 4) for row in rows],
        "memory_over_bound": round(max(bounded), 3),
        "exponent": round(_slope(logs), 2),
    }


def _slope(points: list[tuple[float, float]]) -> float:
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / max(spread, 1e-9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=250_000, help="the smallest of three sizes")
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--json", type=pathlib.Path, help="also write the results here")
    args = parser.parse_args()
    sizes = (args.bytes, 2 * args.bytes, 4 * args.bytes)
    import spectral_flax.checkpoints.torch.reader  # noqa: F401 (imported before it is measured)

    results, bad = [], 0
    for kind in args.kind or KINDS:
        row = measure(kind, sizes)
        results.append(row)
        wrong = row["memory_over_bound"] > 1 or row["exponent"] > 1.3 or "UN" in row["outcome"]
        bad += wrong
        mark = "  WRONG" if wrong else ""
        print(f"{row['kind']:36} {row['outcome']:10} {row['bytes'] / 1e6:5.2f} MB  "
              f"memory {row['memory_over_bound']:.2f}  CPU {row['seconds'][-1]:.2f} s  "
              f"exponent {row['exponent']:.2f}{mark}", flush=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
