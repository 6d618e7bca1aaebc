# SPDX-License-Identifier: Apache-2.0
"""Python time of one dispatched training step on the tree of a ResNet-50.

What the host spends before it is free again: placing the batch and calling the compiled step. The
network is ResNet-50 in the number of its arrays and tiny in their sizes, and the device is idle
when the clock starts, so that computing is not counted. Aim: below 2 ms.

Run: python -m benchmarks.step_dispatch [--model resnet50] [--steps 100]
"""

import argparse
import statistics
import time

import jax
import numpy as np

from benchmarks.results import write
from train.checkpoints.state import make_model, make_state, split
from train.config import Config, Mesh
from train.run.mesh import make_mesh, shard_batch, state_sharding
from train.run.optimizers import make_optimizer, make_schedule
from train.run.record import Run
from train.run.step import make_train_step
from train.tasks.classification.task import Classification


def measure(model: str, steps: int) -> dict:
    config = Config(model=model, options=dict(width=8, stem="small"), mesh=Mesh(devices=1))
    task = Classification(10, (8, 8, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
    mesh = make_mesh(config.mesh)
    network, params, rest = split(make_model(config, task))
    rate = make_schedule(config.schedule, 0.1, steps)
    tx = make_optimizer(config.optimizer, rate)
    state = make_state(config, params, rest, tx)
    state = jax.device_put(state, state_sharding(mesh, state))
    step = make_train_step(Run(config, mesh, task, network, tx, rate), state)
    batch = {"image": np.zeros((2, 8, 8, 3), np.uint8), "label": np.zeros(2, np.int32)}
    times = []
    for _ in range(steps + 3):
        began = time.perf_counter()
        state, _scalars = step(state, shard_batch(mesh, batch))
        times.append(1e3 * (time.perf_counter() - began))
        jax.block_until_ready(state)
    times = sorted(times[3:])
    return {
        "model": model,
        "jax": jax.__version__,
        "leaves": len(jax.tree.leaves(state)),
        "compilations": step._cache_size(),
        "median_ms": round(statistics.median(times), 3),
        "fastest_ms": round(times[0], 3),
        "p90_ms": round(times[int(0.9 * len(times))], 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    result = measure(given.model, given.steps)
    for name, value in result.items():
        print(f"{name:14} {value}")
    write("step_dispatch", result)


if __name__ == "__main__":
    main()
