# SPDX-License-Identifier: Apache-2.0
"""Modules of a user's own, imported for what they register: models, blocks, data sets, tasks."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from spectral_flax.messages import reason, shown


def import_plugins(plugins: Iterable[str]) -> None:
    """Import each of ``plugins``, a file ``NAME.py`` or the name of an installed module, once.

    The folder of a file comes last on ``sys.path``: the file may import its neighbours, and none of
    them hides another module.

    Raises:
      ImportError: there is no such file or module, a file has the name of another module, or the
        import fails; the message names the plugin and, of a failure, the place.
    """
    importlib.invalidate_caches()
    for plugin in plugins:
        name = _found(Path(plugin)) if is_file(plugin) else plugin
        try:
            importlib.import_module(name)
        except Exception as error:  # of any code at all
            raise ImportError(_failure(plugin, name, error)) from error


def is_file(plugin: str) -> bool:
    """Say whether a plugin is given by its file, not by the name of a module."""
    return plugin.endswith(".py") or os.sep in plugin


def absolute(plugin: str, folder: str | os.PathLike[str]) -> str:
    """Return a plugin; a relative path of a file is that from ``folder``."""
    return os.path.abspath(Path(folder, os.path.expanduser(plugin))) if is_file(plugin) else plugin


def _found(path: Path) -> str:
    """Return the module name of a file, whose folder can be imported from hereafter."""
    path, name = path.expanduser().absolute(), path.stem
    told = f"the plugin {shown(repr(str(path)))}"
    if not path.is_file():
        raise ImportError(f"{told} is not there")
    if not name.isidentifier():
        raise ImportError(f"{told} has a name that cannot be imported; expected NAME.py")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # of a module that was made, not imported
        spec = None
    if spec is None or spec.origin is None or not os.path.samefile(spec.origin, path):
        other = "" if spec is None else f" ({spec.origin})"
        raise ImportError(f"{told} has the name of another module{other}; rename it")
    return name


def _failure(plugin: str, name: str, error: Exception) -> str:
    told = f"the plugin {shown(repr(plugin))}"
    if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
        return f"{told} is not there: expected a file NAME.py or an installed module"
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {reason(error)}"
    return f"cannot import {told}: {what} ({place.filename}, line {place.lineno})"
