# SPDX-License-Identifier: Apache-2.0
"""Metrics of a saved run, or of weights, on held-out examples."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.runs import is_finished
from spectral_flax.checkpoints.store import build, read_weights
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.files import any_path
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.messages import reason
from train.checkpoints.checkpoint_record import Record
from train.checkpoints.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    newest_config,
)
from train.checkpoints.failed_reads import drop_failed_reads
from train.checkpoints.state import Leaves, Network, make_model, split
from train.command.checks import check
from train.config import Config, Mesh, from_values
from train.data import Source, evaluation_batches
from train.errors import UserError
from train.evaluate.knn import knn_accuracy
from train.processes.distributed import log
from train.processes.paths import given_path, opened_path
from train.run import mesh as meshes
from train.run.evaluate import total
from train.run.step import make_eval_step
from train.task import Task
from train.tasks import make_task, open_data
from train.tasks.classification.task import Classification

Change = Callable[[Config], Config]
_NUMBER = re.compile("[0-9]+")
Watch = Callable[[Iterable[Any], int], Iterable[Any]]


class Evaluation(NamedTuple):
    """An evaluated model, its data and its metrics."""

    origin: dict[str, Any]
    config: Config
    task: Task
    source: Source
    sums: dict[str, np.ndarray]
    metrics: dict[str, float]


def evaluate_run(
    workdir: str | Path,
    *,
    step: int | None = None,
    best: bool = False,
    ema: bool = True,
    knn: int | None = None,
    change: Change = lambda config: config,
    watch: Watch = lambda batches, total: batches,
) -> Evaluation:
    """Evaluate a checkpoint of the run in ``workdir``: the newest sound one, or that of ``step``.

    Reads only, writes nothing. ``best`` looks among the best checkpoints that the run kept;
    ``ema`` takes the averaged parameters if the run has them; ``knn`` also classifies by so many
    nearest neighbours; ``change`` is applied to the run's config.
    """
    directory, steps = _steps(workdir, step, best)
    checkpoints = Checkpoints(directory)
    try:
        for candidate in steps:
            try:
                record = checkpoints.record(candidate)
                config = for_evaluation(change(record.config))
                load = partial(_restored, checkpoints, record, config, ema)
                origin = {"workdir": str(workdir), "step": candidate}
                return _evaluation(origin, config, load, watch, knn=knn)
            except DamagedCheckpointError as error:
                log(f"the checkpoint of step {candidate} is damaged: {error}")
            drop_failed_reads()
    finally:
        checkpoints.close()
    raise UserError(f"no sound checkpoint in {str(directory)!r}")


def run_config(workdir: str | Path, *, step: int | None = None, best: bool = False) -> Config:
    """Return the config of the run in ``workdir`` as its newest readable checkpoint has it."""
    directory, steps = _steps(workdir, step, best)
    checkpoints = Checkpoints(directory)
    try:
        config = newest_config(checkpoints, steps)
    finally:
        checkpoints.close()
    if config is None:
        raise UserError(f"no sound checkpoint in {str(directory)!r}")
    return config


def _steps(workdir: str | Path, step: int | None, best: bool) -> tuple[Path, list[int]]:
    """Return where checkpoints are and which to look at, newest first."""
    workdir = opened_path("the workdir", workdir)
    directory = workdir / ("best" if best else "checkpoints")
    named = (path for path in directory.glob("*") if _NUMBER.fullmatch(path.name))
    steps = [int(path.name) for path in named if is_finished(path)]
    if not steps:
        what = "best checkpoint; it was trained without --best" if best else "checkpoints"
        raise UserError(f"{str(workdir)!r} holds no {what}; expected the workdir of a run")
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint of step {step}; there are {sorted(steps)}")
    return directory, sorted(steps, reverse=True) if step is None else [step]


def weights_at(path: str, *, entry: str | None = None, ema: bool = True) -> Weights:
    """Return weights that `sf.read_weights` understands.

    Raises:
      UserError: there are none, or they cannot be read.
    """
    if not path.startswith("hf://"):
        path = given_path("--weights", path)
    try:
        if not path.startswith("hf://") and (any_path(path) / "checkpoints").is_dir():
            raise UserError(f"{path!r} is the directory of a run; give --workdir {path}")
        return read_weights(path, entry=entry, weights=None if ema else "raw")
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot read the weights {path!r}: {reason(error, 500)}") from error


def config_of(weights: Weights) -> Config:
    """Return the config of the run that made the weights, as they tell it, or the default.

    Raises:
      UserError: another version of this program wrote it.
    """
    try:
        return from_values(weights.record.run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the weights tell of a run of another version of this program: {reason(error)}; "
            "give the config file, by --config"
        ) from error


def evaluate_weights(
    path: str,
    weights: Weights,
    config: Config,
    *,
    model: str | None = None,
    card_scaling: bool = False,
    knn: int | None = None,
    watch: Watch = lambda batches, total: batches,
) -> Evaluation:
    """Evaluate the weights of ``path`` on the data of ``config``.

    ``model`` names what they belong to, where they do not say themselves; options that they do not
    bring are those of ``config``. ``card_scaling`` scales images as the model's card says, in place
    of the data set's mean and standard deviation.
    """
    config = for_evaluation(config)
    name = model or weights.model
    if name is None:
        raise UserError(f"{path!r} does not say which model it holds; give --model NAME")
    config = dataclasses.replace(config, model=name)

    def load(task: Task, mesh: jax.sharding.Mesh):
        known = weights.options if name == weights.model else {}
        numerics = {} if config.dtype == "float32" else {"dtype": jnp.dtype(config.dtype)}
        options = task.model_options | known | config.options | numerics
        try:
            model = build(weights, name, options, source=path)
        except (TypeError, ValueError) as error:
            raise UserError(f"the weights {path!r} as {name!r}: {error}") from error
        network, *leaves = split(task.extended(model, nnx.Rngs(0)))
        return network, *jax.device_put(leaves, meshes.state_sharding(mesh, leaves))

    return _evaluation({"weights": path}, config, load, watch, card_scaling, knn)


def for_evaluation(config: Config) -> Config:
    """Check a config and fit it to the devices here: a batch is rounded up to what they divide."""
    config = check(config)
    count = config.mesh.devices or len(jax.devices())
    size = -(-config.eval_batch_size // count) * count
    return dataclasses.replace(config, eval_batch_size=size, mesh=Mesh(devices=count))


def _evaluation(
    origin: dict[str, Any],
    config: Config,
    load: Callable,
    watch: Watch,
    card_scaling: bool = False,
    knn: int | None = None,
) -> Evaluation:
    mesh = meshes.make_mesh(config.mesh)
    source = open_data(config, "test")
    task = make_task(config, source).detailed()
    if card_scaling:
        task = task.scaled_by(sf.card(config.model))
    network, params, model_state = load(task, mesh)
    _check_output(task, network, params, model_state, config)
    size = config.eval_batch_size
    batches = watch(evaluation_batches(source, size, config.data), -(-len(source) // size))
    placed = (meshes.shard_batch(mesh, batch) for batch in batches)
    sums = total(make_eval_step(network, task, mesh), task, params, model_state, placed)
    metrics = task.metrics(sums)
    if knn is not None:
        if not isinstance(task, Classification):
            raise UserError(f"--knn {knn} is for classification; the task is {config.task}")
        model = network.merge(params, model_state)
        metrics["knn_accuracy"] = knn_accuracy(model, task, config, source, knn)
    return Evaluation(origin, config, task, source, sums, metrics)


def _restored(
    checkpoints: Checkpoints, record: Record, config: Config, ema: bool, task: Task, mesh
) -> tuple[Network, Leaves, Leaves]:
    network, params, model_state = split(make_model(config, task))
    group = "average" if ema and record.names.get("average") else "params"
    template = {group: params, "rest": model_state}
    faults = checkpoints.mismatches(record, template) if config.data != record.config.data else []
    if faults:
        needs = ", ".join(f"{name} {value}" for name, value in task.model_options.items())
        raise UserError(
            f"the data set {config.data.name!r} ({needs}) needs another model than the run's: "
            f"{faults[0]}"
        )
    template = jax.device_put(template, meshes.state_sharding(mesh, template))
    groups = checkpoints.restore(record.step, record, template)
    return network, groups[group], groups["rest"]


def _check_output(
    task: Task, network: Network, params: Leaves, model_state: Leaves, config: Config
) -> None:
    """Refuse a model whose output is not of the shape that the task needs, by shapes alone."""

    def output(params: Leaves, model_state: Leaves, batch: dict) -> jax.Array:
        return task.output(evaluation_mode(network.merge(params, model_state)), batch)

    data, batch = f"the data set {config.data.name!r}", task.batch_shape(1)
    try:
        shape = jax.eval_shape(output, params, model_state, batch).shape
    except (TypeError, ValueError) as error:
        images = "x".join(map(str, batch["image"].shape[1:]))
        told = f"{config.model} cannot take the {images} of {data}: {reason(error)}"
        raise UserError(told) from error
    expected = task.output_shape(1)
    if shape != expected:
        raise UserError(
            f"{config.model} gives {list(shape[1:])} numbers an example; {data} has "
            f"{list(expected[1:])}"
        )
