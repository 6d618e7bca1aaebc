# SPDX-License-Identifier: Apache-2.0
"""Non-local attention by cuDNN's fused kernel beside the chunked sum: difference and times.

Needs a GPU of compute capability 8.0 or more; elsewhere the chunked sum alone is timed, and the
reason why is printed.

Run: python -m benchmarks.fused_attention [--quick] [--repeats 15]
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp

from benchmarks import harness
from spectral_flax.functional.attention import softmax_attention

SHAPES = [(64, 14 * 14, 256), (16, 28 * 28, 128), (4, 64 * 64, 128)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small map")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    rows = []
    for shape in [(2, 49, 64)] if given.quick else SHAPES:
        q, k, v = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys())
        calls, results = {}, {}
        for implementation in ("chunked", "cudnn"):
            function = functools.partial(softmax_attention, implementation=implementation)
            try:
                compiled = jax.jit(function).lower(q, k, v).compile()
                results[implementation] = compiled(q, k, v)
            except Exception as error:  # whatever this device lacks is what is asked for
                print(f"{implementation}: {type(error).__name__}: {str(error)[:200]}")
                continue
            calls[implementation] = lambda c=compiled, a=(q, k, v): jax.block_until_ready(c(*a))
        times = harness.take_turns(calls, given.repeats)
        seconds = {name: statistics.median(t["wall"]) for name, t in times.items()}
        row = {"shape": shape, "seconds": seconds}
        if len(results) == 2:
            a, b = (y.astype(jnp.float32) for y in results.values())
            row["difference"] = float(jnp.abs(a - b).max() / jnp.abs(a).max())
        print(row)
        rows.append(row)
    harness.save("fused_attention", {"about": harness.about(), "rows": rows})


def keys() -> jax.Array:
    return jax.random.split(jax.random.key(0), 3)


if __name__ == "__main__":
    main()
