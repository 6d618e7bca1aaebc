# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax train`` and ``spectral-flax evaluate``: the programs of the package `train`."""

import importlib.util
from collections.abc import Callable

PROGRAMS = {
    "train": "train as a config file says: spectral-flax train CONFIG.py [--option value ...]",
    "evaluate": "metrics of a run or of weights: spectral-flax evaluate --workdir RUN",
}


def add_command(commands) -> None:
    """Name both commands in the help of all; `program` reads their arguments."""
    for name, text in PROGRAMS.items():
        commands.add_parser(name, help=text.partition(":")[0], description=text, add_help=False)


def program(name: str) -> Callable[..., int]:
    """Return the main function of one of `PROGRAMS`.

    Raises:
      ImportError: packages that training needs are not installed, or another module named
        ``train`` hides that of this library.
    """
    spec = importlib.util.find_spec("train")
    if spec is None or spec.submodule_search_locations is None:
        there = (
            "there is no package train" if spec is None else f"{spec.origin} hides it; rename that"
        )
        raise ImportError(f"cannot import the training of spectral-flax: {there}")
    if name == "train":
        from train.__main__ import main
    else:
        from train.evaluate.__main__ import main
    return main
