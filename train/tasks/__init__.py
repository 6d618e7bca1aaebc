# SPDX-License-Identifier: Apache-2.0
"""Tasks by name."""

import importlib

import spectral_flax as sf
from train.config import Config
from train.data import Source
from train.data.files import Files
from train.errors import UserError
from train.task import Task
from train.tasks.classification.task import Classification


def _check_channels(config: Config) -> None:
    """Refuse an order of channels that prediction, by the card of the model, would not show."""
    try:
        order = sf.card(config.model).channel_order.lower()
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.data.channels != order:
        raise UserError(
            f"--data.channels is {config.data.channels!r}; expected {order!r}, as the card of "
            f"{config.model!r} says; for another order register a model with a card of its own"
        )


def make_task(config: Config, source: Source) -> Task:
    """Build the task that ``config`` names for the data of ``source``.

    Other tasks live in ``train/TASK/task.py``, which also says what their options are. A task may
    draw its results: ``picture(model, source, path)``, called when a run is done. What training
    needs of other weights it reads in ``prepared(workdir, begins=…)``: once, from where its options
    say, and then from what the run keeps; evaluation reads none of it.
    """
    if config.task != "classification":
        module = importlib.import_module(f"train.tasks.{config.task}.task")
        try:
            return module.make(config, source)
        except (TypeError, ValueError) as error:
            raise UserError(f"the task {config.task!r}: {error}") from error
    if config.task_options:
        raise UserError(f"task_options={config.task_options}; classification has none")
    if isinstance(source, Files):
        _check_channels(config)
    return Classification(
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        label_smoothing=config.label_smoothing,
        mixup=config.mixup,
        cutmix=config.cutmix,
        views_at_once=config.views_at_once,
    )
