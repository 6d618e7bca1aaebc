# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of LaMa on one image, by mode and implementation of the Fourier transforms.

Run: python -m benchmarks.inpainting [--model lama_big] [--sizes 512 1024 527x421] [--out FILE.json]
     python -m benchmarks.inpainting --sizes 2048 --modes whole rows crops --implementations auto \
         --repeats 0 [--devices 2]
A hole takes the second quarter of each side. Beside the peak is the estimate that modes are chosen
by. With ``--repeats 0`` the one time includes compilation. ``--devices`` are simulated on a CPU.
Each result is checked, too: it has the size of the image and its known pixels, bit for bit.
Each measurement runs in a process of its own, so that its peak is its own.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time

from spectral_flax.cli.options import parse_size


def measure(
    model: str, size: tuple[int, int], implementation: str, mode: str, repeats: int
) -> dict:
    """Return seconds for an image of ``size`` H, W (median, after compilation) and GiB."""
    import jax
    import numpy as np

    import spectral_flax as sf

    network = sf.create_model(model, implementation=implementation)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    mask = np.zeros(size, bool)
    mask[tuple(slice(n // 4, n // 2 + 1) for n in size)] = True
    seconds, plan = [], []
    before = peak_gib()
    for _ in range(repeats + 1):
        start = time.perf_counter()
        filled = sf.inpaint(network, image, mask, mode=mode, report=plan.append)
        seconds.append(time.perf_counter() - start)
    if filled.shape != image.shape or (filled != image)[~mask].any():
        raise AssertionError(f"{size}: known pixels changed, or the result is {filled.shape}")
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "model": model,
        "size": list(size),
        "implementation": implementation,
        "platform": jax.default_backend(),
        "mode": mode,
        "plan": plan[0],
        "seconds": sorted(seconds[1:] or seconds)[repeats // 2],
        "first_seconds": seconds[0],
        "host_gib_before": before,
        "host_peak_gib": peak_gib(),
        "device_peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
    }


def peak_gib() -> float:
    """Return the most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lama_big")
    parser.add_argument("--sizes", nargs="+", default=["512", "1024"], metavar="N|HxW")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--modes", nargs="+", default=["whole"])
    parser.add_argument("--implementations", nargs="+", default=["fft", "matmul"])
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("--one", nargs=3, metavar=("SIZE", "IMPLEMENTATION", "MODE"))
    args = parser.parse_args()
    if args.one:
        size, *how = args.one
        print(json.dumps(measure(args.model, parse_size(size), *how, args.repeats)))
        return
    simulated = f"--xla_force_host_platform_device_count={args.devices}"
    environment = os.environ | ({"XLA_FLAGS": simulated} if args.devices > 1 else {})
    rows = []
    for how in itertools.product(args.sizes, args.implementations, args.modes):
        command = [sys.executable, __file__, "--model", args.model]
        command += ["--repeats", str(args.repeats), "--one", *how]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"{row['model']:10} {how[0]:>7} {row['implementation']:7} {row['seconds']:8.2f} s  "
            f"host {row['host_peak_gib']:6.2f} GiB  device {row['device_peak_gib']:6.2f} GiB  "
            f"{row['plan']}",
            flush=True,
        )
    if args.out:
        with open(args.out, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
