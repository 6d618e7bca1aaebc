# SPDX-License-Identifier: Apache-2.0
"""The options of a model in words: type, default and meaning of each."""

import inspect
import re
from typing import Any, NamedTuple

from spectral_flax.layers.numerics import IN_WORDS
from spectral_flax.models.registry import get_model


class Option(NamedTuple):
    """An option of a model; ``meaning`` is what its function's docstring says of it."""

    type: str
    default: Any
    meaning: str


def model_options(name: str) -> dict[str, Option]:
    """Return the options of the model ``name``, in order, as `create_model` takes them.

    The default is `inspect.Parameter.empty` where there is none; type and meaning are empty where
    the model's function says nothing of them.

    Raises:
      ValueError: no such model; the message names the closest.
    """
    model = get_model(name)
    meanings = {option: words for option, (_, words) in IN_WORDS.items()}
    meanings |= _arguments(inspect.getdoc(model.function) or "")
    return {
        option: Option(_type(parameter), parameter.default, meanings.get(option, ""))
        for option, parameter in model.options.items()
    }


def _type(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return IN_WORDS[parameter.name][0] if parameter.name in IN_WORDS else ""
    text = inspect.formatannotation(parameter.annotation)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).strip("'")


def _arguments(text: str) -> dict[str, str]:
    """Return what the section ``Args:`` of a docstring says of each argument, on one line."""
    section = re.search(r"^Args:\n((?:  .*\n|\n)*)", text + "\n", re.MULTILINE)
    lines = section[1] if section else ""
    found = re.findall(r"^  (\w+): ((?:.*\n)(?:   .*\n)*)", lines, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}
