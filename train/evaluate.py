# SPDX-License-Identifier: Apache-2.0
"""Figures of a trained model on held-out examples: ``python -m train.evaluate --workdir DIR``."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tyro

from train import mesh as meshes
from train.checkpoints import Checkpoints, DamagedCheckpointError, drop_failed_reads
from train.command_line import load
from train.config import Config
from train.data import Source, evaluation_batches, open_source
from train.errors import UserError
from train.state import make_model, split
from train.step import make_eval_step
from train.tasks import Task, make_task


def evaluate(
    eval_step: Callable, task: Task, params, rest, source: Source, batch_size: int, mesh
) -> dict[str, float]:
    """Return the task's figures over the whole of ``source``."""
    sums, pending = {}, None
    for batch in evaluation_batches(source, batch_size):
        # Read the sums of one batch while the next is computed.
        pending, done = eval_step(params, rest, meshes.place_batch(mesh, batch)), pending
        sums = _add(sums, done)
    return task.summary(_add(sums, pending))


def evaluate_run(workdir: Path, *, step: int | None = None) -> tuple[int, dict[str, float], Config]:
    """Evaluate a checkpoint of the run in ``workdir``: the newest sound one, or that of ``step``.

    Returns the step, the figures and the config; reads only, writes nothing.
    """
    directory = workdir / "checkpoints"
    steps = [int(p.name) for p in directory.glob("*") if p.name.isdigit()]
    if not steps:
        raise UserError(f"{str(workdir)!r} holds no checkpoints; expected the workdir of a run")
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint of step {step}; there are {sorted(steps)}")
    checkpoints = Checkpoints(directory)
    try:
        for candidate in sorted(steps, reverse=True) if step is None else [step]:
            try:
                return candidate, *_evaluate_step(checkpoints, candidate)
            except DamagedCheckpointError as error:
                print(f"the checkpoint of step {candidate} is damaged: {error}")
            drop_failed_reads()
    finally:
        checkpoints.close()
    raise UserError(f"no sound checkpoint in {str(directory)!r}")


def _evaluate_step(checkpoints: Checkpoints, step: int) -> tuple[dict[str, float], Config]:
    record = checkpoints.record(step)
    config = record.config
    mesh = meshes.make_mesh(config.mesh)
    meshes.check_batches(mesh, config)
    source = open_source(config.data.name, "test", config.data)
    task = make_task(config, source)
    network, params, rest = split(make_model(config, task))
    like = {"params": params, "rest": rest}
    like = jax.device_put(like, meshes.state_sharding(mesh, like))
    groups = checkpoints.restore(step, record, like)
    eval_step = make_eval_step(network, task, mesh)
    figures = evaluate(
        eval_step, task, groups["params"], groups["rest"], source, config.eval_batch_size, mesh
    )
    return figures, config


def _add(sums, new):
    if new is None:
        return sums
    new = {name: np.asarray(value, np.float64) for name, value in jax.device_get(new).items()}
    return {name: sums.get(name, 0.0) + value for name, value in new.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Evaluate a saved run on its held-out examples."""

    workdir: Path
    """Directory of the run."""
    step: int | None = None
    """Step of the checkpoint to evaluate; None: the newest."""
    config: Path | None = None
    """Config file to run first; needed only where it is the config that registers the model."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = tyro.cli(Arguments, args=arguments, prog="python -m train.evaluate")
    try:
        if given.config is not None:
            load(given.config)
        step, figures, config = evaluate_run(given.workdir, step=given.step)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{config.model} on {config.data.name}, step {step}")
    for name, value in figures.items():
        print(f"  {name:20} {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
