# SPDX-License-Identifier: Apache-2.0
"""Collectives of a training step on eight devices: gradients and statistics, no pixels.

The step of `train` is compiled for eight simulated devices, from shapes alone, at two image sizes.
Listed are all collectives of the program with their number and bytes; beside them the bytes of the
parameters' gradients and of the batch statistics. A program that exchanges nothing of the images
has the same bytes at both sizes. Convolutions are JAX's, as on GPUs and TPUs: the forms that the
CPU gets exchange the gradient of a kernel in several pieces.

Run: python -m evidence.collectives [NAME ...] [--sizes 224 448] [--parallel pjit]
"""

import argparse
import math
import os
from collections.abc import Iterable

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from benchmarks.compiled_step import compiled_step
from benchmarks.results import write
from spectral_flax.analysis.collectives import collectives
from spectral_flax.kernels.convolution import whole_maps
from train.config import Config


def size_in_bytes(arrays: Iterable[jax.ShapeDtypeStruct]) -> int:
    return sum(a.dtype.itemsize * math.prod(a.shape) for a in arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["ffc_resnet50", "resnet50_bat"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[224, 448])
    parser.add_argument("--parallel", default="pjit", choices=["pjit", "pmap"])
    given = parser.parse_args()
    rows = {}
    for name in given.names:
        for size in given.sizes:
            config = Config(model=name, parallel=given.parallel, batch_size=16)
            with whole_maps(False):
                step = compiled_step(config, size)
            rows[f"{name} {size}"] = row = collectives(step.program.as_text())
            params = size_in_bytes(step.params.values())
            floats = [a for a in step.rest.values() if jnp.issubdtype(a.dtype, jnp.floating)]
            print(f"{name} at {size}: parameters {params:,} bytes, ", end="")
            print(f"statistics {size_in_bytes(floats):,}")
            for kind, (count, total) in row.items():
                print(f"  {kind:20} {count:5} {total:15,} bytes", flush=True)
    write("collectives", rows)


if __name__ == "__main__":
    main()
