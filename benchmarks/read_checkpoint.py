# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of reading a large PyTorch file, made here without PyTorch.

Run: python -m benchmarks.read_checkpoint [--megabytes 100] [--json FILE]
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes (Linux)."""
    # Not getrusage: its maximum includes that of the process that started this one.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status).group(1))


def read(path: str) -> dict:
    """Read the file in this process; return seconds and the growth of peak memory in bytes."""
    from spectral_flax.checkpoints.torch.reader import read_torch

    before = peak_memory()
    start = time.perf_counter()
    tensors = read_torch(path).tensors
    seconds = time.perf_counter() - start
    after = peak_memory()
    return {
        "seconds": seconds,
        "peak_bytes": after - before,
        "tensor_bytes": sum(array.nbytes for array in tensors.values()),
        "tensors": len(tensors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--json", type=pathlib.Path, help="also write the results here")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read)))
        return
    from spectral_flax.checkpoints.torch.writer import write_torch

    rng = np.random.default_rng(0)
    block = [rng.standard_normal((256, 1024), np.float32) for _ in range(args.megabytes)]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "large.pth"
        start = time.perf_counter()
        write_torch(path, {f"layer{i}.weight": array for i, array in enumerate(block)})
        written = time.perf_counter() - start
        # A fresh process, so that the peak is that of reading alone.
        command = [sys.executable, "-m", "benchmarks.read_checkpoint", "--read", str(path)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        result |= {"file_bytes": path.stat().st_size, "write_seconds": written}
    result["peak_over_file"] = result["peak_bytes"] / result["file_bytes"]
    print(f"file {result['file_bytes'] / 1e6:.1f} MB, {result['tensors']} tensors: read in "
          f"{result['seconds']:.2f} s, peak memory {result['peak_over_file']:.2f} x the file; "
          f"written in {result['write_seconds']:.2f} s")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
