# SPDX-License-Identifier: Apache-2.0
"""Growth of the time of one block over the positions of a map, from 14 x 14 to 224 x 224.

Prints the slope of log time over log HW and draws measured times beside the orders that the
blocks are said to have: HW log HW for the Fourier block, HW (H + W) for learned orthogonal
matrices and bilinear attention, (HW)^2 for non-local attention.

Run: python -m benchmarks.growth [--features 16] [--sides 14 28 56 112 224]
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from benchmarks.blocks import functions, make, seconds
from benchmarks.results import write

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ORDERS = {
    "srl_fft": ("HW log HW", lambda n: n**2 * np.log(n**2)),
    "srl_lo": ("HW (H + W)", lambda n: 2 * n**3),
    "bat": ("HW (H + W)", lambda n: 2 * n**3),
    "nl": ("(HW)²", lambda n: n**4),
}


def slope(sides, values):
    return float(np.polyfit(2 * np.log(sides), np.log(values), 1)[0])


def measure(name, features, sides, repeats):
    times = []
    for side in sides:
        module = make(name, features, 2, (side, side))
        calls, params = functions(module, "ours")
        x = jnp.asarray(np.random.default_rng(0).standard_normal((1, side, side, features)))
        x = x.astype(jnp.float32)
        compiled = jax.jit(calls["forward"]).lower(params, x).compile()
        times.append(seconds(compiled, (params, x), repeats))
    return times


def draw(path, sides, times):
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    positions = np.square(sides)
    for colour, (name, values) in zip(["C0", "C1", "C2", "C3"], times.items(), strict=False):
        order, growth = ORDERS[name]
        axes.loglog(positions, values, "o-", color=colour, label=f"{name}, said {order}")
        said = growth(np.asarray(sides, float))
        axes.loglog(positions, said * (values[-1] / said[-1]), ":", color=colour)
    axes.set(xlabel="positions HW", ylabel="seconds", title="Forward pass of one block, one map")
    axes.legend()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--sides", type=int, nargs="+", default=[14, 28, 56, 112, 224])
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    sides = np.asarray(given.sides)
    rows, times = {}, {}
    print(f"{'block':9}{'slope':>7}{'last':>7}{'said':>7}  order")
    for name, (order, growth) in ORDERS.items():
        times[name] = measure(name, given.features, given.sides, given.repeats)
        rows[name] = {
            "sides": given.sides,
            "seconds": times[name],
            "slope": slope(sides, times[name]),
            "slope_of_the_two_largest": slope(sides[-2:], times[name][-2:]),
            "slope_of_the_order": slope(sides, growth(sides.astype(float))),
            "order": order,
        }
        row = rows[name]
        print(
            f"{name:9}{row['slope']:7.2f}{row['slope_of_the_two_largest']:7.2f}"
            f"{row['slope_of_the_order']:7.2f}  {order}"
        )
    result = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "blocks": rows}
    path = write("growth", result)
    draw(path.with_suffix(".png"), given.sides, times)


if __name__ == "__main__":
    main()
