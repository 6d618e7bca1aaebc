# SPDX-License-Identifier: Apache-2.0
"""The table of tasks; the task, options and data of a config."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from spectral_flax.messages import closest
from train.config import Config, Data
from train.data import Source, Split
from train.errors import UserError
from train.fields import conformed
from train.task import Direction, Task, TaskEntry
from train.tasks.classification.task import CLASSIFICATION, OWN_METRICS, Metric
from train.tasks.inpainting.task import INPAINTING
from train.tasks.pose.task import POSE
from train.tasks.segmentation.task import SEGMENTATION

OpenSplit = Callable[[Split, Data], Source]
"""Opens a split of a data set, given the config's `Data`."""
TASKS: dict[str, TaskEntry] = {
    "classification": CLASSIFICATION,
    "segmentation": SEGMENTATION,
    "inpainting": INPAINTING,
    "pose": POSE,
}
"""Tasks by name; `register_task` adds to them."""


def register_task(name: str, entry: TaskEntry) -> None:
    """Add a task of one's own to the table, under a name for ``--task``.

    Raises:
      ValueError: the name is taken, or is no identifier.
      TypeError: ``entry`` is not a `TaskEntry`.
    """
    _check_name("task", name, TASKS)
    if not isinstance(entry, TaskEntry):
        raise TypeError(f"entry={entry!r}; expected a TaskEntry")
    TASKS[name] = entry


def register_data_set(
    name: str, *, task: str = "classification"
) -> Callable[[OpenSplit], OpenSplit]:
    """Return a decorator that adds a data set to a task, under a name for ``--data.name``.

    The function is ``open(split, data)``: given "train" or "test" and `config.Data`, it returns an
    object of a class that inherits from `data.Source`, whose examples are what the task's are.

    Raises:
      ValueError: the name is no identifier, or a data set of any task has it; or there is no such
        task.
    """
    _check_name("data set", name, [known for entry in TASKS.values() for known in entry.data])
    if task not in TASKS:
        raise ValueError(f"task={task!r}; {closest(task, TASKS)}")

    def enter(function: OpenSplit) -> OpenSplit:
        def opened(split: Split, data: Data, *_: Any) -> Source:
            source = function(split, data)
            if Source not in type(source).__mro__:
                given = type(source).__name__
                told = f"the data set {name!r} opens a {given}"
                raise UserError(f"{told}; expected a class that inherits from train.data.Source")
            return source

        TASKS[task].data[name] = opened
        return function

    return enter


def register_metric(name: str, best: Direction) -> Callable[[Metric], Metric]:
    """Return a decorator that adds a metric to classification; it is ``best`` when "max" or "min".

    The function is ``metric(logits, label)``: of float32 ``[N, classes]`` and int32 ``[N]``, a
    value for each example, computed by JAX. The metric is their mean over a data set.

    Raises:
      ValueError: the name is taken, or is no identifier; or ``best`` is neither.
    """
    _check_name("metric", name, CLASSIFICATION.metrics)
    if best not in ("max", "min"):
        raise ValueError(f"best={best!r}; expected 'max' or 'min'")

    def enter(metric: Metric) -> Metric:
        OWN_METRICS[name] = metric
        CLASSIFICATION.metrics[name] = best
        return metric

    return enter


def _check_name(kind: str, name: str, known: Collection[str]) -> None:
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"name={name!r}; expected an identifier")
    if name in known:
        raise ValueError(f"a {kind} named {name!r} is registered already")


def make_task(config: Config, source: Source) -> Task:
    """Return the task that ``config`` names, for the data of ``source``."""
    return TASKS[config.task].make(config, task_options(config), source)


def open_data(config: Config, split: Split) -> Source:
    """Return a split of the data set that ``config`` names.

    Raises:
      UserError: the task has no such data set, or it is not where or what the config says.
    """
    name, own = config.data.name, TASKS[config.task].data
    for task, entry in TASKS.items():
        if name in entry.data and name not in own:
            raise UserError(
                f"the data set {name!r} is for the task {task!r}; expected one for "
                f"{config.task!r}: {closest(name, own)}"
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
    entry = _entry(config.task)
    options = dataclasses.asdict(entry.options()) | config.task_options
    fixed = {name: value for name, value in options.items() if name not in entry.may_change}
    return dataclasses.replace(config, task_options=fixed)


def _entry(task: str) -> TaskEntry:
    if task not in TASKS:
        raise UserError(f"there is no task {task!r}; {closest(task, TASKS)}")
    return TASKS[task]


def describe(task: str) -> str:
    """Return the options of a task and their defaults in words, for help on the command line."""
    if task not in TASKS:  # which other plugins may register
        return f"--task-options.NAME VALUE of the task {task}."
    fields = dataclasses.fields(TASKS[task].options)
    options = ", ".join(f"{f.name.replace('_', '-')} ({f.default})" for f in fields)
    return f"--task-options.NAME VALUE of the task {task}, with defaults: {options}."
