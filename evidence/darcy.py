# SPDX-License-Identifier: Apache-2.0
"""A Fourier neural operator learns Darcy flow, and is evaluated at twice the resolution.

-div(a grad u) = 1 on the unit square, u = 0 on its border: from the permeability a, which is 12 or
3 as a smooth random field says, to the pressure u. As in Li et al., "Fourier Neural Operator for
Parametric Partial Differential Equations", ICLR 2021, section 5.2, with fewer and coarser examples.
Solutions are of finite volumes at 65 x 65 points; training sees every second point of them.

Here, on 2 cores, 2 min: 3 seeds err by .031 to .034 on the grid of the training (33 x 33) and by
.048 to .050 on that of 65 x 65; the mean of the training solutions errs by .249.

Run: python -m evidence.darcy [--seeds 3] [--epochs 30] [--train 300]
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.fft import idctn
from scipy.sparse import diags
from scipy.sparse.linalg import spsolve

import spectral_flax as sf
from benchmarks.results import write
from spectral_flax.kernels.cpu import compiler_options

POINTS, TEST = 65, 100


def permeability(rng: np.random.Generator) -> np.ndarray:
    """Draw a field of covariance (-Laplace + 9)^-2 and cut it at 0: ``[POINTS, POINTS]``."""
    k = np.pi * np.arange(POINTS)
    spectrum = rng.standard_normal((POINTS, POINTS)) / (k[:, None] ** 2 + k**2 + 9)
    spectrum[0, 0] = 0
    return np.where(idctn(spectrum, type=2, norm="ortho") >= 0, 12.0, 3.0)


def pressure(a: np.ndarray) -> np.ndarray:
    """Solve for the pressure; permeabilities between points are harmonic means."""
    n = POINTS - 2
    down, right = (2 * x * y / (x + y) for x, y in ((a[1:], a[:-1]), (a[:, 1:], a[:, :-1])))
    north, south = down[:-1, 1:-1], down[1:, 1:-1]
    west, east = right[1:-1, :-1], right[1:-1, 1:]
    beside = -east.copy()
    beside[:, -1] = 0  # no neighbour in the next row
    main = (north + south + west + east).ravel()
    sides = [beside.ravel()[:-1], beside.ravel()[:-1]]
    rows = [-south.ravel()[:-n], -south.ravel()[:-n]]
    matrix = diags([main, *sides, *rows], [0, 1, -1, n, -n], format="csc") * (POINTS - 1) ** 2
    u = np.zeros((POINTS, POINTS))
    u[1:-1, 1:-1] = spsolve(matrix, np.ones(n * n)).reshape(n, n)
    return u


def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return permeabilities and pressures of unit scale, ``float32 [count, POINTS, POINTS, 1]``."""
    rng = np.random.default_rng(0)
    a = np.stack([permeability(rng) for _ in range(count)])
    u = np.stack([pressure(one) for one in a])
    return np.float32(a - 7.5)[..., None] / 4.5, np.float32(u / u.std())[..., None]


def relative_error(y: jax.Array, u: jax.Array) -> jax.Array:
    """Return the mean over examples of |y - u| / |u|."""
    norm = lambda v: jnp.sqrt(jnp.square(v).sum((1, 2, 3)))
    return (norm(y - u) / norm(u)).mean()


def trained(seed: int, a: np.ndarray, u: np.ndarray, epochs: int):
    """Return the function of a trained network, and the seconds that training took."""
    batch = 20
    steps = epochs * len(a) // batch
    model = sf.create_model(
        "fno2d", modes=(16, 8), width=24, hidden=64, padding=0, rngs=nnx.Rngs(seed)
    )
    graphdef, params = nnx.split(model)
    tx = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-4)

    def loss(params, a, u):
        return relative_error(nnx.merge(graphdef, params)(a), u)

    @jax.jit
    def step(params, state, a, u):
        gradient = jax.grad(loss)(params, a, u)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, compiler_options=compiler_options())
    rng, state, begun = np.random.default_rng(seed), tx.init(params), time.perf_counter()
    for _ in range(epochs):
        for chosen in rng.permutation(len(a))[: len(a) // batch * batch].reshape(-1, batch):
            params, state = step(params, state, a[chosen], u[chosen])
    jax.block_until_ready(params)
    evaluate = jax.jit(loss)
    return lambda a, u: float(evaluate(params, a, u)), time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--train", type=int, default=300, help="examples to train on")
    given = parser.parse_args()
    begun = time.perf_counter()
    a, u = examples(given.train + TEST)
    print(f"{len(a)} solutions in {time.perf_counter() - begun:.0f} s", flush=True)
    train, test = slice(None, given.train), slice(given.train, None)
    mean = np.broadcast_to(u[train].mean(0), u[test].shape)
    baseline = float(relative_error(mean, u[test]))
    print(f"the mean of the training solutions: {baseline:.4f}")
    rows = []
    for seed in range(given.seeds):
        error, seconds = trained(seed, a[train, ::2, ::2], u[train, ::2, ::2], given.epochs)
        coarse = error(a[test, ::2, ::2], u[test, ::2, ::2])
        fine = error(a[test], u[test])
        rows.append({"seed": seed, "error_33": coarse, "error_65": fine, "seconds": seconds})
        print(
            f"seed {seed}: relative L2 error {coarse:.4f} at 33, {fine:.4f} at 65, {seconds:.0f} s"
        )
    write("darcy", {"mean": baseline, "epochs": given.epochs, "train": given.train, "rows": rows})


if __name__ == "__main__":
    main()
