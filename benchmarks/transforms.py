# SPDX-License-Identifier: Apache-2.0
"""The two implementations of the Fourier transform by size: the table behind "auto".

Forward transform and its inverse, alone and with gradients, by FFT and by products with cosine and
sine matrices, taking turns. "auto" may choose the matrices only where they are faster in both.

Run: python -m benchmarks.transforms [--quick] [--sides 7 14] [--channels 32 128] [--repeats 15]
"""

import argparse
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from spectral_flax.functional import irfft2, rfft2


def calls(x):
    """Return a compiled call for each implementation and kind."""
    result = {}
    for implementation in ("fft", "matmul"):

        def there_and_back(x, implementation=implementation):
            s = jax.nn.relu(rfft2(x, implementation=implementation))
            return irfft2(s, x.shape[-2], implementation=implementation)

        def gradient(x, f=there_and_back):
            return jax.grad(lambda x: jnp.square(f(x)).mean())(x)

        for kind, f in (("forward", there_and_back), ("forward + backward", gradient)):
            compiled = jax.jit(f).lower(x).compile()
            result[implementation, kind] = lambda c=compiled: jax.block_until_ready(c(x))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="float32 and 32 channels only")
    parser.add_argument("--sides", type=int, nargs="+", default=[7, 8, 14, 28, 32, 56, 64])
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    rows = []
    print("time by FFT / time by matrices (above 1: matrices are faster), wall [quartiles], CPU")
    for dtype in ("float32",) if given.quick else ("float32", "bfloat16"):
        for channels in (32,) if given.quick else given.channels:
            for side in given.sides:
                shape = (given.batch, side, side, channels)
                x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)
                times = harness.take_turns(calls(x), given.repeats)
                for kind in ("forward", "forward + backward"):
                    fft, matrices = times["fft", kind], times["matmul", kind]
                    row = {
                        "label": f"{side}x{side}, {channels} channels, {dtype}, {kind}",
                        "fft_ms": 1e3 * statistics.median(fft["wall"]),
                        "ratio": harness.ratio(fft["wall"], matrices["wall"]),
                        "cpu_ratio": harness.ratio(fft["cpu"], matrices["cpu"]),
                    }
                    low, high = row["ratio"]["quartiles"]
                    print(
                        f"{row['label']:55} {row['ratio']['median']:5.2f} [{low:.2f}, {high:.2f}]"
                        f"  {row['cpu_ratio']['median']:5.2f}   fft {row['fft_ms']:.2f} ms",
                        flush=True,
                    )
                    rows.append(row)
    harness.save("transforms", {"about": harness.about(), "rows": rows})


if __name__ == "__main__":
    main()
