# SPDX-License-Identifier: Apache-2.0
"""Householder parameters stay orthogonal through 10 000 optimiser steps, without any repair.

A matrix of each size is trained with Adam to map random maps onto each other. Beside it: the same
with the matrix itself as the parameter, as published, once made orthogonal again by QR in every
step and once left alone. The table shows the largest entry of |P^T P - I| (evaluated in float64)
after 1, 10, 100, ... steps, the loss, and the time of a step.

Run: python -m evidence.orthogonality [--steps 10000] [--sizes 16 64 128]
"""

import argparse
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.results import write
from spectral_flax.functional import orthogonal


def retracted(matrix):
    q = orthogonal.qr_retraction(matrix)
    return jax.lax.stop_gradient(q) + (matrix - jax.lax.stop_gradient(matrix))


METHODS = {
    "householder": (orthogonal.random_reflectors, orthogonal.orthogonal_matrix),
    "qr": (orthogonal.random_orthogonal, retracted),
    "unconstrained": (orthogonal.random_orthogonal, lambda matrix: matrix),
}


def error(matrix) -> float:
    matrix = np.asarray(matrix, np.float64)
    return float(np.abs(matrix.T @ matrix - np.eye(len(matrix))).max())


def train(method: str, n: int, steps: int, learning_rate: float) -> dict:
    draw, matrix_of = METHODS[method]
    optimiser = optax.adam(learning_rate)
    parameter = draw(jax.random.key(n), n)
    state = optimiser.init(parameter)
    maps = jax.random.normal(jax.random.key(0), (2, n, 4 * n))

    @jax.jit
    def advance(parameter, state, count):
        def loss(parameter):
            return jnp.mean(jnp.square(matrix_of(parameter) @ maps[0] - maps[1]))

        def step(_, carry):
            parameter, state, _ = carry
            value, gradient = jax.value_and_grad(loss)(parameter)
            updates, state = optimiser.update(gradient, state)
            return optax.apply_updates(parameter, updates), state, value

        return jax.lax.fori_loop(0, count, step, (parameter, state, jnp.zeros(())))

    matrix = jax.jit(matrix_of)
    parameter, state, first = advance(parameter, state, 1)  # compiles
    errors, done, seconds = {1: error(matrix(parameter))}, 1, 0.0
    for target in sorted({10**k for k in range(1, 10) if 10**k < steps} | {steps}):
        start = time.perf_counter()
        parameter, state, last = jax.block_until_ready(advance(parameter, state, target - done))
        seconds += time.perf_counter() - start
        done = target
        errors[done] = error(matrix(parameter))
    return dict(
        method=method,
        n=n,
        errors=errors,
        largest_error=max(errors.values()),
        loss=[float(first), float(last)],
        microseconds_per_step=1e6 * seconds / (done - 1),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    print(f"{'method':14} {'n':>4} {'|PtP-I|':>9} {'loss from':>10} {'to':>8} {'us/step':>8}")
    rows = []
    for n, method in itertools.product(options.sizes, METHODS):
        row = train(method, n, options.steps, options.learning_rate)
        rows.append(row)
        first, last = row["loss"]
        print(
            f"{row['method']:14} {row['n']:4} {row['largest_error']:9.1e} {first:10.4f} "
            f"{last:8.4f} {row['microseconds_per_step']:8.0f}",
            flush=True,
        )
    about = dict(backend=jax.default_backend(), jax=jax.__version__, steps=options.steps)
    write("orthogonality", dict(about, rows=rows))
    worst = max(r["largest_error"] for r in rows if r["method"] == "householder")
    if worst >= 1e-6:
        raise SystemExit(f"Householder matrices are off by {worst:.1e}; 1e-6 is promised")


if __name__ == "__main__":
    main()
