# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of LaMa on one image, by implementation of the Fourier transforms.

Run: python -m benchmarks.inpainting [--model lama_big] [--sizes 512 1024 527x421] [--out FILE.json]
Each result is checked, too: it has the size of the image and its known pixels, bit for bit.
Each measurement runs in a process of its own, so that its peak is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from spectral_flax.cli.options import parse_size


def measure(model: str, size: tuple[int, int], implementation: str, repeats: int) -> dict:
    """Return seconds for an image of ``size`` H, W (median, after compilation) and GiB."""
    import jax
    import numpy as np

    import spectral_flax as sf

    network = sf.create_model(model, implementation=implementation)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    mask = np.zeros(size, bool)
    mask[tuple(slice(n // 4, n // 2 + 1) for n in size)] = True
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        filled = sf.inpaint(network, image, mask)
        seconds.append(time.perf_counter() - start)
    if filled.shape != image.shape or (filled != image)[~mask].any():
        raise AssertionError(f"{size}: known pixels changed, or the result is {filled.shape}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "model": model,
        "size": list(size),
        "implementation": implementation,
        "platform": jax.default_backend(),
        "seconds": sorted(seconds[1:])[repeats // 2],
        "first_seconds": seconds[0],
        "host_peak_gib": peak,
        "device_peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lama_big")
    parser.add_argument("--sizes", nargs="+", default=["512", "1024"], metavar="N|HxW")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "IMPLEMENTATION"))
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.model, parse_size(args.one[0]), args.one[1], args.repeats)))
        return
    rows = []
    for size in args.sizes:
        for implementation in ("fft", "matmul"):
            command = [sys.executable, __file__, "--model", args.model]
            command += ["--repeats", str(args.repeats), "--one", size, implementation]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(
                f"{row['model']:10} {size:>7} {implementation:7} {row['seconds']:8.2f} s  "
                f"host {row['host_peak_gib']:6.2f} GiB  device {row['device_peak_gib']:6.2f} GiB",
                flush=True,
            )
    if args.out:
        with open(args.out, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
