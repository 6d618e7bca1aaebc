# SPDX-License-Identifier: Apache-2.0
"""Memory that a training step needs for a moment, with blocks kept and with blocks computed twice.

Compiled, not run: what XLA plans for temporary values.

Run: python -m benchmarks.rematerialisation [NAME ...] [--size 224] [--batch 16]
"""

import argparse

from benchmarks.compiled_step import compiled_step
from benchmarks.results import write
from train.config import Config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["ffc_resnet50"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    rows = {}
    for name in given.names:
        for remat in (False, True):
            config = Config(model=name, batch_size=given.batch, remat=remat)
            memory = compiled_step(config, given.size).program.memory_analysis()
            way = "computed twice" if remat else "kept"
            rows[f"{name}, {way}"] = mebibytes = memory.temp_size_in_bytes / 2**20
            print(f"{name:20} {way:15} {mebibytes:8.0f} MiB", flush=True)
    write("rematerialisation", rows)


if __name__ == "__main__":
    main()
