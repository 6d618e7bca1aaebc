# SPDX-License-Identifier: Apache-2.0
"""Convolutions and their two gradients: the time that JAX's form takes, over that of ours.

Run: python -m benchmarks.convolutions [--repeats 7]
"""

import argparse
import functools

import jax
import numpy as np

from benchmarks import harness
from spectral_flax.kernels.convolution_forms import (
    KERNEL,
    X,
    Y,
    by_jax,
    convolution_form,
    on_cpu,
)
from spectral_flax.kernels.cpu import compiler_options, keep_freed_memory

keep_freed_memory()  # before JAX is used; both forms profit

# Input, window, features, strides, padded.
SHAPES = [
    ((4, 56, 56, 64), (3, 3), 64, 1, True),
    ((4, 56, 56, 64), (3, 3), 48, 1, True),
    ((4, 28, 28, 128), (3, 3), 96, 1, True),
    ((4, 14, 14, 256), (3, 3), 256, 1, True),
    ((1, 66, 66, 512), (3, 3), 128, 1, False),
    ((1, 66, 66, 128), (3, 3), 384, 1, False),
    ((4, 7, 7, 512), (3, 3), 512, 1, True),
    ((4, 28, 28, 256), (3, 3), 256, 2, True),
    ((4, 56, 56, 256), (1, 1), 64, 1, True),
    ((4, 56, 56, 64), (1, 1), 256, 1, True),
    ((2, 4, 28, 28, 64), (3, 3, 3), 64, 1, True),
    ((2, 8, 28, 28, 64), (1, 3, 3), 64, 1, True),
]


def array(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def compiled(function, *args):
    program = jax.jit(function, compiler_options=compiler_options()).lower(*args).compile()
    return lambda: jax.block_until_ready(program(*args))


def forms(result, shape, window, features, strides=1, padded=True):
    """Return the calls of a convolution or one of its gradients: JAX's and ours (on the CPU)."""
    rank = len(window)
    x, kernel = array(shape), array((*window, shape[-1], features))
    padding = tuple((k // 2, k // 2) if padded else (0, 0) for k in window)
    form = convolution_form(x, kernel, (strides,) * rank, padding, (1,) * rank, None)
    three = x, kernel, array(form.shapes[Y])
    given = [a for role, a in enumerate(three) if role != result]
    ours = on_cpu if jax.default_backend() == "cpu" else by_jax
    return tuple(compiled(functools.partial(f, form, result), *given) for f in (by_jax, ours))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    rows = []
    print(f"{'':52}{'convolution':>12}{'input grad':>12}{'kernel grad':>12}")
    for case in SHAPES:
        shape, window, features, strides, padded = case
        found = {}
        for result, name in ((Y, "convolution"), (X, "input"), (KERNEL, "kernel")):
            calls = dict(zip(("jax", "ours"), forms(result, *case), strict=True))
            times = harness.take_turns(calls, given.repeats)
            found[name] = harness.ratio(times["jax"]["wall"], times["ours"]["wall"])
        label = f"{window} of {shape} to {features}" + ("" if padded else ", unpadded")
        label += f", strides {strides}" if strides > 1 else ""
        print(f"{label:52}" + "".join(f"{r['median']:12.2f}" for r in found.values()), flush=True)
        rows.append({"label": label, "ratios": found})
    harness.save("convolutions", {"about": harness.about(), "rows": rows})


if __name__ == "__main__":
    main()
