# SPDX-License-Identifier: Apache-2.0
"""The least time of whole calls: their operations and bytes over what the machine measures.

A program's floating-point operations and the bytes that its fused operations read and write are
XLA's own count; loops count once for each turn. The machine's rates are those of a large matrix
product and of a sum of two long vectors, by XLA in this process. No program can be faster than
the larger of the two times; one whose operations take turns at both takes about their sum.

Run: python -m benchmarks.roofline [--only resnet50 ffc_resnet50_lfu] [--work training]
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from benchmarks import sides
from benchmarks.cases import MODELS
from benchmarks.results import write
from benchmarks.turns import Effort, measure

SIDE, LENGTH = 2048, 1 << 24  # of the matrices, and of the vectors


def seconds(function, *args) -> float:
    """Return the median time of a call."""
    compiled = jax.jit(function).lower(*args).compile()
    taken = []
    for _ in range(12):
        begun = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[2:])


def rates() -> tuple[float, float]:
    """Return operations and bytes a second."""
    a, x = jnp.ones((SIDE, SIDE)), jnp.ones(LENGTH)
    return 2 * SIDE**3 / seconds(jnp.matmul, a, a), 3 * x.nbytes / seconds(jnp.add, x, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["resnet50", "ffc_resnet50_lfu"])
    parser.add_argument("--work", default="training", choices=["inference", "training"])
    given = parser.parse_args()
    rows = {}
    for name in given.only:
        call = sides.ours("models", name, MODELS[name].shapes[0], given.work, "float32")
        operations, moved = rates()
        cost = call.program.cost_analysis()
        rows[name] = row = {
            "gigaflops": cost["flops"] / 1e9,
            "gigabytes": cost["bytes accessed"] / 1e9,
            "gigaflops a second": operations / 1e9,
            "gigabytes a second": moved / 1e9,
            "by operations": cost["flops"] / operations,
            "by bytes": cost["bytes accessed"] / moved,
            "measured": statistics.median(measure(call, Effort())["seconds"]),
        }
        print(f"{name}, {given.work}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    write("roofline", rows)


if __name__ == "__main__":
    main()
