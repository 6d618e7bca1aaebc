# SPDX-License-Identifier: Apache-2.0
"""Time of operators against their published forms in PyTorch.

Fourier unit, spectral transform with LFU, SRL-FFT, non-local and bilinear attention on maps of
56, 28, 14 and 7; forward, and forward + backward. PyTorch runs with channels last, eagerly and,
with --compiled, through torch.compile. Each form is validated against the published numbers
before it is timed.

Run: python -m benchmarks.operators [--quick] [--compiled] [--only fourier_unit] [--repeats 15]
"""

import argparse
import statistics

import numpy as np
from flax import nnx

from benchmarks import contestants, harness
from benchmarks.peers import attention, fourier
from benchmarks.peers.validate import validate
from spectral_flax import layers

SHAPES = [(8, 56, 64), (8, 28, 128), (8, 14, 256), (8, 7, 512), (8, 56, 32), (8, 14, 32)]
QUICK = [(4, 56, 32), (4, 14, 128), (4, 7, 128)]
OPERATORS = {
    "fourier_unit": (
        "fourier_unit",
        lambda c, rngs: layers.FourierUnit(c, c, rngs=rngs),
        lambda c: fourier.FourierUnit(c, c),
    ),
    "spectral_transform": (
        "spectral_transform_lfu",
        lambda c, rngs: layers.SpectralTransform(c, c, rngs=rngs),
        lambda c: fourier.SpectralTransform(c, c),
    ),
    "srl_fft": (
        "srl_fft",
        lambda c, rngs: layers.srl_fft(c, rngs=rngs),
        fourier.FourierBlock,
    ),
    "nl": ("nonlocal_2d", lambda c, rngs: layers.non_local(c, rngs=rngs), attention.NonLocal),
    "bat": (
        "bat_2d",
        lambda c, rngs: layers.bat(c, dropout=0.0, rngs=rngs),
        attention.BilinearAttention,
    ),
}


def measure(name, shape, repeats, compiled):
    n, side, channels = shape
    _, make, make_peer = OPERATORS[name]
    if name in ("spectral_transform",) and side % 2:
        return []  # the published local Fourier unit fails on odd sides
    x = np.random.default_rng(0).standard_normal((n, side, side, channels)).astype(np.float32)
    rows = []
    for backward in (False, True):
        calls = {}
        calls["ours"], planned = contestants.ours(make(channels, nnx.Rngs(0)), x, backward)
        calls["eager"] = contestants.theirs(make_peer(channels), x, backward)
        if compiled:
            calls["compiled"] = contestants.theirs(make_peer(channels), x, backward, True)
        times = harness.take_turns(calls, repeats)
        best = min(list(calls)[1:], key=lambda c: statistics.median(times[c]["wall"]))
        row = {
            "label": f"{name} {n}x{side}x{side}x{channels} {'fwd+bwd' if backward else 'fwd'}",
            "operator": name,
            "backward": backward,
            "ms": {c: 1e3 * statistics.median(t["wall"]) for c, t in times.items()},
            "cpu_ms": {c: 1e3 * statistics.median(t["cpu"]) for c, t in times.items()},
            "ratio": harness.ratio(times[best]["wall"], times["ours"]["wall"]),
            "cpu_ratio": harness.ratio(times[best]["cpu"], times["ours"]["cpu"]),
            "planned_MiB": planned / 2**20,
        }
        low, high = row["ratio"]["quartiles"]
        milliseconds = " ".join(f"{c} {v:8.2f}" for c, v in row["ms"].items())
        print(
            f"{row['label']:45} {milliseconds}  {row['ratio']['median']:5.2f} [{low:.2f}, "
            f"{high:.2f}]  cpu {row['cpu_ratio']['median']:5.2f}",
            flush=True,
        )
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three small shapes, few repeats")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile")
    parser.add_argument("--only", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--repeats", type=int)
    given = parser.parse_args()
    import torch

    repeats = given.repeats or (5 if given.quick else 15)
    for name in given.only:
        validate(OPERATORS[name][0])
    print("milliseconds; ratio PyTorch's best / ours by wall clock [quartiles], and by CPU seconds")
    rows = []
    for name in given.only:
        for shape in QUICK if given.quick else SHAPES:
            rows += measure(name, shape, repeats, given.compiled)
    means = {}
    for name in given.only:
        for backward in (False, True):
            of = [r for r in rows if r["operator"] == name and r["backward"] == backward]
            means[f"{name} {'fwd+bwd' if backward else 'fwd'}"] = {
                kind: statistics.geometric_mean(r[kind]["median"] for r in of)
                for kind in ("ratio", "cpu_ratio")
            }
    print("\ngeometric means, PyTorch / ours")
    for label, mean in means.items():
        print(f"{label:30} {mean['ratio']:5.2f}  cpu {mean['cpu_ratio']:5.2f}")
    result = {
        "about": harness.about(torch=torch.__version__),
        "repeats": repeats,
        "rows": rows,
        "geometric_means": means,
    }
    harness.save("operators", result)
    harness.draw_ratios("operators", "PyTorch / spectral_flax (above 1: ours is faster)", rows)


if __name__ == "__main__":
    main()
