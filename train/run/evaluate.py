# SPDX-License-Identifier: Apache-2.0
"""Figures of a model over all held-out examples."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from train.checkpoints.state import Leaves
from train.config import Data
from train.data import Source, evaluation_batches
from train.run.mesh import place_batch
from train.task import Task


def evaluate(
    eval_step: Callable,
    task: Task,
    params: Leaves,
    rest: Leaves,
    source: Source,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    data: Data | None = None,
) -> dict[str, float]:
    """Return the task's figures over the whole of ``source``; ``data`` says how it is read."""
    batches = evaluation_batches(source, batch_size, data)
    placed = (place_batch(mesh, batch) for batch in batches)
    return task.metrics(total(eval_step, task, params, rest, placed))


def total(
    eval_step: Callable, task: Task, params: Leaves, rest: Leaves, batches: Iterator
) -> dict[str, np.ndarray]:
    """Add up the sums of all batches, and put their rows one below the other."""
    sums, rows, pending = {}, {name: [] for name in task.rows}, None

    def take(found: dict | None) -> None:
        for name, value in jax.device_get(found or {}).items():
            if name in rows:
                rows[name].append(np.asarray(value))
            else:
                sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)

    for batch in batches:
        # Read the sums of one batch while the next is computed.
        pending, done = eval_step(params, rest, batch), pending
        take(done)
    take(pending)
    return sums | {name: np.concatenate(parts) for name, parts in rows.items() if parts}
