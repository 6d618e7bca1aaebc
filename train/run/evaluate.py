# SPDX-License-Identifier: Apache-2.0
"""Metrics of a model over all held-out examples."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from train.checkpoints.state import Leaves
from train.data import Source, evaluation_batches
from train.run.mesh import shard_batch
from train.run.record import Run
from train.task import Task


def evaluate(
    run: Run, eval_step: Callable, params: Leaves, model_state: Leaves, source: Source
) -> dict[str, float]:
    """Return the task's metrics over the whole of ``source``."""
    config = run.config
    batches = evaluation_batches(source, config.eval_batch_size, config.data)
    sharded = (shard_batch(run.mesh, batch) for batch in batches)
    return run.task.metrics(total(eval_step, run.task, params, model_state, sharded))


def total(
    eval_step: Callable, task: Task, params: Leaves, model_state: Leaves, batches: Iterator
) -> dict[str, np.ndarray]:
    """Return the sums over all batches, and their rows concatenated."""
    sums, rows, pending = {}, {name: [] for name in task.rows}, None

    def take(found: dict | None) -> None:
        for name, value in jax.device_get(found or {}).items():
            if name in rows:
                rows[name].append(np.asarray(value))
            else:
                sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)

    for batch in batches:
        # Read the sums of one batch while the next is computed.
        pending, done = eval_step(params, model_state, batch), pending
        take(done)
    take(pending)
    return sums | {name: np.concatenate(parts) for name, parts in rows.items() if parts}
