# SPDX-License-Identifier: Apache-2.0
"""What a user waits for before anything is compiled: imports, building a model.

`python -m benchmarks.startup [--model ffc_resnet50] [--repeats 5]`. Each figure is the median of
fresh processes, since nothing may be warm. What compiling takes: `benchmarks.compilation`.
"""

import argparse
import statistics
import subprocess
import sys

from benchmarks.results import write

TIMED = "import time; start = time.perf_counter(); {0}; print(time.perf_counter() - start)"
AFTER = "import spectral_flax as sf, jax; from flax import nnx; jax.devices(); "


def seconds(code: str, repeats: int, before: str = "") -> list[float]:
    """Return how long the code takes in each of several fresh processes."""
    command = [sys.executable, "-c", before + TIMED.format(code)]
    run = lambda: float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return [run() for _ in range(repeats)]


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ffc_resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    create = f"m = sf.create_model({args.model!r}); jax.block_until_ready(nnx.state(m))"
    cases = {
        "import flax.nnx": ("import flax.nnx", ""),
        "import spectral_flax": ("import spectral_flax", ""),
        f"create {args.model}, random weights": (create, AFTER),
        f"create {args.model}, abstract": (f"sf.abstract_model({args.model!r})", AFTER),
    }
    rows = {what: seconds(code, args.repeats, before) for what, (code, before) in cases.items()}
    for what, times in rows.items():
        spread = f"{min(times):.2f} to {max(times):.2f}"
        print(f"{what:45} {statistics.median(times):6.2f} s  ({spread})")
    plain, ours = (statistics.median(rows[f"import {m}"]) for m in ("flax.nnx", "spectral_flax"))
    print(f"import of the library: {ours / plain:.2f} x that of flax.nnx")
    write("startup", rows)


if __name__ == "__main__":
    main()
