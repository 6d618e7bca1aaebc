# SPDX-License-Identifier: Apache-2.0
"""The command line of a run: its arguments as a checked config."""

import ast
import dataclasses
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from spectral_flax.messages import closest, shown
from spectral_flax.plugins import absolute
from train.command.checks import check, import_own
from train.config import Config
from train.errors import UserError
from train.fields import conformed
from train.processes.paths import local_path
from train.tasks import describe

USAGE = "configs/NAME.py [--option value ...]"


def parse(arguments: Sequence[str], program: str = "python -m train") -> Config:
    """Read the config that the first argument names and override it with the others.

    Exits with 2 on a wrong option, and with 0 after ``--help``, as command lines do.
    """
    if arguments and not arguments[0].startswith("-"):
        path, rest = arguments[0], arguments[1:]
        config = load(path)
    elif set(arguments) & {"-h", "--help"}:
        path, rest = "configs/NAME.py", arguments
        config = Config()
    else:
        known = ", ".join(sorted(str(p) for p in Path("configs").glob("*.py"))) or "none found"
        usage = f"{program} {USAGE}"
        raise UserError(f"the first argument is the config file: {usage}\nconfigs here: {known}")
    if not any(word.partition("=")[0] == "--plugins" for word in rest):
        import_own(config.plugins)  # for the help on the task that they register
    config, rest = take_options(config, rest)
    config = tyro.cli(
        Config,
        default=config,
        args=rest,
        prog=f"{program} {path}",
        description=f"One training run. Usage: {program} {USAGE}\n\n--rehearse only compiles "
        "the step, takes two, and saves and deletes a checkpoint, and says what that takes.\n"
        "--options.NAME VALUE is an "
        "option of the model, of those that spectral-flax show MODEL lists.\n"
        f"{describe(config.task)}",
        config=(tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed),
    )
    if config.workdir is None:
        config = dataclasses.replace(config, workdir=str(Path("runs") / _run_name(path)))
    return check(config)


def load(path: str | Path) -> Config:
    """Return the ``config`` that the Python file ``path`` defines.

    ``path:NAME`` returns the entry NAME of the dictionary ``variants`` that it defines too.
    """
    file, _, variant = local_path("the config", path).partition(":")
    path, name = Path(file), shown(repr(file))
    if path.is_dir():
        raise UserError(f"the config {name} is a folder; {closest(file, _configs(path))}")
    if not path.is_file():
        raise UserError(f"there is no config {name}; {closest(file, _configs(path.parent))}")
    names = _executed(file, name)
    variants = names.get("variants", {})
    if not isinstance(variants, dict):
        given = f"{type(variants).__name__} as variants"
        raise UserError(f"{name} defines {given}; expected a dictionary of names and configs")
    configs = {"": names.get("config")} | {str(key): value for key, value in variants.items()}
    if variant not in configs:
        known = closest(variant, filter(None, configs))
        raise UserError(f"{name} has no variant {shown(repr(variant))}; {known}")
    config = configs[variant]
    if not isinstance(config, Config):
        given = type(config).__name__ if variant or "config" in names else "nothing"
        raise UserError(f"{name} must define config = Config(...); it defines {given}")
    config, faults = conformed(config)
    if faults:
        raise UserError("\n".join([f"the config {name}:", *faults]))
    plugins = tuple(absolute(plugin, path.parent) for plugin in config.plugins)
    return dataclasses.replace(config, plugins=plugins)


def _executed(file: str, name: str) -> dict[str, Any]:
    """Run a config file and return the names that it defines; it may import its neighbours."""
    folder = str(Path(file).absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: no file there hides another module
    try:
        return runpy.run_path(file)
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise UserError(f"the config {name} ends the program: exit({error.code!r})") from error
    except BaseException as error:
        # The last lines name the place in the file and the fault; what precedes is runpy's own.
        lines = "".join(traceback.format_exception(error, limit=-1)).splitlines()[1:]
        told = [shown(line, 300) for line in lines[-20:]]
        raise UserError("\n".join([f"cannot read the config {name}:", *told])) from error


def _configs(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.py"))]


def _run_name(path: str) -> str:
    file, _, variant = path.partition(":")
    return "_".join(filter(None, (Path(file).stem, variant)))


def take_options(config: Config, arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """Move ``--options.NAME VALUE`` and ``--task-options.NAME VALUE`` into the config.

    Only the model and the task know their options.
    """
    found = {"options": dict(config.options), "task_options": dict(config.task_options)}
    groups = {f"--{group.replace('_', '-')}": options for group, options in found.items()}
    rest = []
    words = iter(arguments)
    for word in words:
        group, dot, named = word.partition(".")
        if not dot or group not in groups:
            rest.append(word)
            continue
        name, equals, value = named.partition("=")
        if not equals:
            value = next(words, None)
        if not name or value is None:
            raise UserError(f"{word} lacks its value; expected {group}.NAME VALUE")
        groups[group][name.replace("-", "_")] = _literal(value)
    return dataclasses.replace(config, **found), rest


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return word
