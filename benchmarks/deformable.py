# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution tap by tap, beside gathering the samples of all taps at once.

The other form samples as we do, all positions of the kernel together, and multiplies once. Both are
compiled in one process and take turns. Memory is what the compiled program plans beside its
arguments.

Run: python -m benchmarks.deformable [--repeats 7]
"""

import argparse
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from spectral_flax.functional.deformable import deformable_convolution, sample
from spectral_flax.kernels.cpu import compiler_options

SHAPES = {"56x56x64": (4, 56, 56, 64), "14x14x256": (4, 14, 14, 256)}


def at_once(x, kernel, offsets, mask):
    """Convolve with a 3x3 kernel, padded by 1, all samples at once."""
    n, height, width, features = x.shape
    padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    ticks = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    reach = np.indices((3, 3)).reshape(2, 9).T - 1
    places = (ticks[:, :, None] + reach).astype(np.float32) + offsets.reshape(
        n, height, width, 9, 2
    )
    samples = sample(padded, places) * mask[..., None]
    flat = samples.reshape(n, height, width, 9 * features)
    return flat @ kernel.reshape(9 * features, -1)


def ours(x, kernel, offsets, mask):
    return deformable_convolution(x, kernel, offsets, mask, padding=(1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rows = []
    for label, shape in SHAPES.items():
        keys = jax.random.split(jax.random.key(0), 4)
        x = jax.random.normal(keys[0], shape)
        kernel = jax.random.normal(keys[1], (3, 3, shape[-1], shape[-1])) * 0.05
        offsets = 2 * jax.random.normal(keys[2], (*shape[:3], 18))
        mask = jax.random.uniform(keys[3], (*shape[:3], 9))
        args = (x, kernel, offsets, mask)
        for work in ("forward", "with gradients"):
            calls, memory, results = {}, {}, {}
            for name, form in (("ours", ours), ("at once", at_once)):
                loss = lambda *a, form=form: jnp.square(form(*a)).sum()
                call = form if work == "forward" else jax.grad(loss, (0, 1, 2, 3))
                compiled = jax.jit(call, compiler_options=compiler_options()).lower(*args).compile()
                calls[name] = lambda compiled=compiled, args=args: jax.block_until_ready(
                    compiled(*args)
                )
                memory[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
                results[name] = compiled(*args)
            for a, b in zip(*map(jax.tree.leaves, results.values()), strict=True):
                np.testing.assert_allclose(a, b, atol=2e-4 * float(jnp.abs(b).max()))
            times = harness.take_turns(calls, repeats)
            seconds = {name: statistics.median(t["wall"]) for name, t in times.items()}
            rows.append(dict(shape=label, work=work, seconds=seconds, temporary_mib=memory))
            print(
                f"{label:10} {work:15} "
                + "  ".join(
                    f"{n}: {1e3 * seconds[n]:7.1f} ms {memory[n]:7.1f} MiB" for n in seconds
                )
            )
    harness.save("deformable", {"about": harness.about(), "rows": rows})


if __name__ == "__main__":
    main()
