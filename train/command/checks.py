# SPDX-License-Identifier: Apache-2.0
"""Checks of a config's values, before anything is read or built."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

from spectral_flax.messages import shown
from spectral_flax.plugins import absolute, import_plugins
from train.config import Config
from train.errors import UserError
from train.fields import conformed, paths
from train.processes.paths import given_path
from train.tasks import TASKS, checked_options


def check(config: Config) -> Config:
    """Return ``config``, lists as tuples, ``~`` expanded and the options of its task complete.

    Its plugins are imported. Raises a UserError that names all faults.
    """
    config, faults = conformed(config)
    plugins = tuple(absolute(plugin, "") for plugin in config.plugins)
    import_own(plugins)
    config = dataclasses.replace(config, plugins=plugins)
    if config.task not in TASKS:
        known = f"expected one of {', '.join(TASKS)}, or what --plugins registers"
        raise UserError("\n".join([*faults, f"--task is {shown(repr(config.task))}; {known}"]))
    config, wrong = _with_paths(config)
    faults += wrong + [
        f"--{name} is {shown(repr(value))}; expected {expected}"
        for name, value, good, expected in _rules(config)
        if not good
    ]
    options, wrong = checked_options(config.task, config.task_options)
    if not wrong:
        options, wrong = _expanded(options, "task-options.")
    faults += wrong
    if faults:
        raise UserError("\n".join(faults))
    return dataclasses.replace(config, task_options=dataclasses.asdict(options))


def import_own(plugins: Sequence[str]) -> None:
    """Import the modules of a user's own that a config names.

    Raises:
      UserError: one is not there, or fails.
    """
    try:
        import_plugins(plugins)
    except ImportError as error:
        raise UserError(f"{error}; --plugins FILE.py ... names others") from error


def _rules(config: Config) -> list[tuple[str, Any, bool, str]]:
    """Return rules over several fields: name, value, whether it holds, what is expected."""
    pretrained, data = config.pretrained, config.data
    ranges = ((name, getattr(data, name)) for name in ("scale", "ratio", "short_side"))
    literals = {
        "options": config.options,
        "task-options": config.task_options,
        "pretrained.inflate-options": pretrained.inflate_options,
    }
    return [
        *(
            (f"data.{name.replace('_', '-')}", value, value[0] <= value[1], "least, greatest")
            for name, value in ranges
        ),
        *(
            (
                "parallel",
                config.parallel,
                config.parallel == "pjit" or number == 1,
                f"pjit: {what} are shared (--mesh.{name}) in the global view only",
            )
            for name, number, what in (
                ("fsdp", config.mesh.fsdp, "parameters"),
                ("space", config.mesh.space, "images"),
            )
        ),
        (
            "pretrained.inflate",
            pretrained.inflate,
            pretrained.weights is not None or pretrained.inflate is None,
            "None without --pretrained.weights",
        ),
        *((name, v, _is_literal(v), "Python literals only") for name, v in literals.items()),
    ]


def _with_paths(config: Config) -> tuple[Config, list[str]]:
    """Return the config with ``~`` expanded in its paths, and what is wrong with them."""
    config, faults = _expanded(config, "")
    for group in ("data", "pretrained"):
        values, wrong = _expanded(getattr(config, group), f"{group}.")
        config, faults = dataclasses.replace(config, **{group: values}), faults + wrong
    return config, faults


def _expanded(values: Any, group: str) -> tuple[Any, list[str]]:
    found, faults = {}, []
    for name in paths(type(values)):
        path = getattr(values, name)
        try:
            title = f"--{group}{name.replace('_', '-')}"
            found[name] = path if path is None else given_path(title, path)
        except UserError as error:
            faults.append(str(error))
    return dataclasses.replace(values, **found), faults


def _is_literal(value: Any) -> bool:
    try:
        return ast.literal_eval(repr(value)) == value
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
