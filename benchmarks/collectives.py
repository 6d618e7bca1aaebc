# SPDX-License-Identifier: Apache-2.0
"""What eight devices say to each other in a training step: gradients and statistics, no pixels.

The step of `train` is compiled for eight simulated devices, from shapes alone, at two image sizes.
Listed are all collectives of the program with their number and bytes; beside them the bytes of the
parameters' gradients and of the batch statistics. A program that exchanges nothing of the images
has the same bytes at both sizes. Convolutions are JAX's, as on GPUs and TPUs: the forms that the
CPU gets exchange the gradient of a kernel in several pieces.

Run: python -m benchmarks.collectives [NAME ...] [--sizes 224 448] [--parallel pjit]
"""

import argparse
import collections
import importlib
import math
import os
import re

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from flax import nnx

import spectral_flax as sf
from benchmarks.runs import write
from train.config import Config
from train.mesh import make_mesh
from train.optimizers import make_optimizer
from train.state import TrainState, split
from train.step import make_train_step
from train.tasks import Classification

KINDS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
WIDTHS = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "f64": 8}


def program(name: str, size: int, parallel: str, batch: int = 16) -> tuple[str, int, int]:
    """Return the compiled step's text and the bytes of parameters and of statistics."""
    config = Config(model=name, parallel=parallel, batch_size=batch)
    task = Classification(1000, (size, size, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
    networks = []

    def leaves():
        model = sf.create_model(name, rngs=nnx.Rngs(0))
        model.train()
        network, params, rest = split(model)
        networks.append(network)
        return params, rest

    params, rest = jax.eval_shape(leaves)
    network = networks[0]
    tx = make_optimizer(config.optimizer, lambda step: 0.1)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    opt_state = jax.eval_shape(tx.init, params)
    state = TrainState(scalar, params, rest, opt_state, key, {}, scalar)
    mesh = make_mesh(config.mesh)
    step = make_train_step(network, task, tx, lambda step: 0.1, mesh, state, config)
    text = step.lower(state, task.batch_shape(batch)).compile().as_text()
    floats = [a for a in rest.values() if jnp.issubdtype(a.dtype, jnp.floating)]
    sizes = (sum(4 * math.prod(a.shape) for a in group) for group in (params.values(), floats))
    return text, *sizes


def collectives(text: str) -> dict[str, list[int]]:
    """Return number and bytes of each kind of collective; those of several arrays count as one."""
    found = collections.defaultdict(lambda: [0, 0])
    for result, kind in re.findall(rf"= (\S.*?) ({KINDS})(?:-start)?\(", text):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", result)
        count = sum(WIDTHS[t] * math.prod(map(int, filter(None, s.split(",")))) for t, s in arrays)
        found[kind][0] += 1
        found[kind][1] += count
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["ffc_resnet50", "resnet50_bat"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[224, 448])
    parser.add_argument("--parallel", default="pjit", choices=["pjit", "pmap"])
    given = parser.parse_args()
    module = importlib.import_module("spectral_flax.functional.convolution")
    module._has_forms = lambda *_: False
    rows = {}
    for name in given.names:
        for size in given.sizes:
            text, params, statistics = program(name, size, given.parallel)
            rows[f"{name} {size}"] = row = collectives(text)
            print(f"{name} at {size}: parameters {params:,} bytes, statistics {statistics:,}")
            for kind, (count, size_in_bytes) in row.items():
                print(f"  {kind:20} {count:5} {size_in_bytes:15,} bytes", flush=True)
    write("collectives", rows)


if __name__ == "__main__":
    main()
