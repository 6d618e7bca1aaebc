# SPDX-License-Identifier: Apache-2.0
"""Time of operators against their published forms in PyTorch.

Fourier unit, spectral transform with LFU, SRL-FFT and SRL-LO, non-local, bilinear, double, compact
(CGNL) and recurrent criss-cross attention (RCCA) on maps of 56, 28, 14 and 7; bilinear attention
of videos on four frames of 28 and 14. Forward, and forward + backward, in float32 or with --amp in
bfloat16 (PyTorch by autocast). PyTorch runs with channels last, eagerly and, with --compiled,
through torch.compile. Each form is validated against the published numbers before it is timed.

Run: python -m benchmarks.operators [--quick] [--compiled] [--amp] [--only fourier_unit]
         [--batch 8] [--repeats 15]
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import contestants, harness
from benchmarks.peers import attention, fourier, video
from benchmarks.peers.validate import validate
from spectral_flax import layers

SIDES = [(8, 56, 64), (8, 28, 128), (8, 14, 256), (8, 7, 512), (8, 56, 32), (8, 14, 32)]
MAPS = [(n, side, side, c) for n, side, c in SIDES]
QUICK_MAPS = [(4, 56, 56, 32), (4, 14, 14, 128), (4, 7, 7, 128)]
VIDEOS = [(2, 4, 28, 28, 64), (2, 4, 14, 14, 256)]
QUICK_VIDEOS = [(1, 4, 28, 28, 32), (1, 4, 14, 14, 128)]


class Operator(NamedTuple):
    """A case that validates the peer, both forms from a map's shape, and the shapes."""

    case: str
    make: Callable[..., nnx.Module]  # of the shape, and options dtype and rngs
    make_peer: Callable
    shapes: list[tuple[int, ...]] = MAPS
    quick_shapes: list[tuple[int, ...]] = QUICK_MAPS


def of_channels(make, **options):
    """Return a constructor from a map's shape, given one from channels."""
    return lambda shape, **numerics: make(shape[-1], **options, **numerics)


def learned(orthogonal):
    """Return the learned orthogonal block with the matrices given so."""

    def make(shape, **numerics):
        return layers.srl_lo(shape[-1], size=shape[1:3], orthogonal=orthogonal, **numerics)

    return Operator("srl_lo", make, lambda shape: fourier.OrthogonalBlock(shape[-1], shape[1:3]))


def even(shapes):
    """Leave out odd sides, at which the published local Fourier unit fails."""
    return [shape for shape in shapes if shape[1] % 2 == 0]


OPERATORS = {
    "fourier_unit": Operator(
        "fourier_unit",
        lambda shape, **numerics: layers.FourierUnit(shape[-1], shape[-1], **numerics),
        lambda shape: fourier.FourierUnit(shape[-1], shape[-1]),
    ),
    "spectral_transform": Operator(
        "spectral_transform_lfu",
        lambda shape, **numerics: layers.SpectralTransform(shape[-1], shape[-1], **numerics),
        lambda shape: fourier.SpectralTransform(shape[-1], shape[-1]),
        even(MAPS),
        even(QUICK_MAPS),
    ),
    "srl_fft": Operator("srl_fft", of_channels(layers.srl_fft), of_channels(fourier.FourierBlock)),
    "srl_lo": learned("qr"),  # as published
    "srl_lo_householder": learned("householder"),  # the default here, against the same peer
    "nl": Operator("nonlocal_2d", of_channels(layers.non_local), of_channels(attention.NonLocal)),
    "bat": Operator(
        "bat_2d",
        of_channels(layers.bat, dropout=0.0),
        of_channels(attention.BilinearAttention),
    ),
    "bat3d": Operator(
        "bat_3d",
        of_channels(layers.bat3d, dropout=0.0),
        of_channels(video.BilinearAttention, k=8, tk=4),
        VIDEOS,
        QUICK_VIDEOS,
    ),
    "a2": Operator(
        "double_attention",
        of_channels(layers.DoubleAttention, distribute="positions"),  # as in the code of SRL
        of_channels(attention.DoubleAttention),
    ),
    "cgnl": Operator(
        "cgnl", of_channels(layers.CompactNonLocal), of_channels(attention.CompactNonLocal)
    ),
    "rcca": Operator(
        "criss_cross",
        of_channels(layers.RecurrentCrissCross),
        of_channels(attention.RecurrentCrissCross),
        [shape for shape in MAPS if shape[1] <= 28],
        [shape for shape in QUICK_MAPS if shape[1] <= 28],
    ),
}


def measure(name, shape, repeats, compiled, amp):
    operator = OPERATORS[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    dtype = jnp.bfloat16 if amp else None
    rows = []
    for backward in (False, True):
        calls = {}
        module = operator.make(shape, dtype=dtype, rngs=nnx.Rngs(0))
        calls["ours"], planned = contestants.ours(module, x, backward, amp)
        calls["eager"] = contestants.theirs(operator.make_peer(shape), x, backward, amp=amp)
        if compiled:
            peer = operator.make_peer(shape)
            calls["compiled"] = contestants.theirs(peer, x, backward, compiled=True, amp=amp)
        times = harness.take_turns(calls, repeats)
        best = min(list(calls)[1:], key=lambda c: statistics.median(times[c]["wall"]))
        size = "x".join(map(str, shape))
        row = {
            "label": f"{name} {size} {'fwd+bwd' if backward else 'fwd'}",
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
    parser.add_argument("--quick", action="store_true", help="a few small shapes, few repeats")
    parser.add_argument("--compiled", action="store_true", help="also torch.compile")
    parser.add_argument("--amp", action="store_true", help="bfloat16, for GPUs")
    parser.add_argument("--only", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--batch", type=int, help="in place of that of each shape")
    parser.add_argument("--repeats", type=int)
    given = parser.parse_args()
    import torch

    repeats = given.repeats or (5 if given.quick else 15)
    for case in sorted({OPERATORS[name].case for name in given.only}):
        validate(case)
    print("milliseconds; ratio PyTorch's best / ours by wall clock [quartiles], and by CPU seconds")
    rows = []
    for name in given.only:
        operator = OPERATORS[name]
        for shape in operator.quick_shapes if given.quick else operator.shapes:
            shape = (given.batch or shape[0], *shape[1:])
            rows += measure(name, shape, repeats, given.compiled, given.amp)
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
        "amp": given.amp,
        "rows": rows,
        "geometric_means": means,
    }
    harness.save("operators", result)
    harness.draw_ratios("operators", "PyTorch / spectral_flax (above 1: ours is faster)", rows)


if __name__ == "__main__":
    main()
