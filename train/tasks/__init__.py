# SPDX-License-Identifier: Apache-2.0
"""The table of tasks; the task, options and data of a config."""

import dataclasses
from typing import Any

from spectral_flax.messages import closest
from train.config import Config
from train.data import Source, Split
from train.errors import UserError
from train.fields import conformed
from train.task import Task, TaskEntry
from train.tasks.classification.task import CLASSIFICATION
from train.tasks.inpainting.task import INPAINTING
from train.tasks.pose.task import POSE
from train.tasks.segmentation.task import SEGMENTATION

TASKS: dict[str, TaskEntry] = {
    "classification": CLASSIFICATION,
    "segmentation": SEGMENTATION,
    "inpainting": INPAINTING,
    "pose": POSE,
}


def make_task(config: Config, source: Source) -> Task:
    """Return the task that ``config`` names, for the data of ``source``."""
    return TASKS[config.task].make(config, task_options(config), source)


def open_data(config: Config, split: Split) -> Source:
    """Return a split of the data set that ``config`` names.

    Raises:
      UserError: the task has no such data set, or it is not where or what the config says.
    """
    name = config.data.name
    for task, entry in TASKS.items():
        if task != config.task and name in entry.data:
            raise UserError(
                f"the data set {name!r} is for the task {task!r}; expected one for "
                f"{config.task!r}: {closest(name, TASKS[config.task].data)}"
            )
    return TASKS[config.task].open(split, config.data, task_options(config))


def task_options(config: Config) -> Any:
    """Return the options of the config's task as its dataclass.

    Raises:
      UserError: there is no such option, or a value has the wrong type or is out of bounds.
    """
    options, faults = checked_options(config.task, config.task_options)
    if faults:
        raise UserError("\n".join(faults))
    return options


def checked_options(task: str, given: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return the options of a task, wrong ones at their defaults, and all faults of ``given``."""
    kind = TASKS[task].options
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [name for name in given if name not in known]
    options = kind(**{name: value for name, value in given.items() if name in known})
    options, faults = conformed(options, "task-options.")
    return options, faults + [
        f"--task-options.{name.replace('_', '-')} is no option of the task {task!r}; "
        f"{closest(name, known)}"
        for name in unknown
    ]


def identity(config: Config) -> Config:
    """Return the config with those options of its task only that a saved run cannot change."""
    entry = TASKS[config.task]
    options = dataclasses.asdict(entry.options()) | config.task_options
    fixed = {name: value for name, value in options.items() if name not in entry.may_change}
    return dataclasses.replace(config, task_options=fixed)


def describe(task: str) -> str:
    """Return the options of a task and their defaults in words, for help on the command line."""
    fields = dataclasses.fields(TASKS[task].options)
    options = ", ".join(f"{f.name.replace('_', '-')} ({f.default})" for f in fields)
    return f"--task-options.NAME VALUE of the task {task}, with defaults: {options}."
