# SPDX-License-Identifier: Apache-2.0
"""Whether the values of a dataclass are of the types that its fields are annotated with."""

import dataclasses
import math
import types
import typing
from typing import Any

from spectral_flax.messages import shown

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "True or False",
    types.NoneType: "None",
}


def conformed(value: Any, name: str = "") -> tuple[Any, list[str]]:
    """Return a dataclass whose fields all have the right type, and what was wrong with ``value``.

    A list in place of a tuple is taken for one; any other wrong value is named in a line and
    replaced by its field's default, so that the rest can be looked at.
    """
    changes, faults = {}, []
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        hint, given = hints[field.name], _tuples(getattr(value, field.name), hints[field.name])
        title = f"{name}{field.name.replace('_', '-')}"
        if not _fits(given, hint):
            faults.append(f"--{title} is {_repr(given)}; expected {_expected(hint)}")
            makes = field.default_factory is not dataclasses.MISSING
            given = field.default_factory() if makes else field.default
        elif dataclasses.is_dataclass(hint):
            given, within = conformed(given, f"{title}.")
            faults += within
        changes[field.name] = given
    return dataclasses.replace(value, **changes), faults


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is typing.Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(each) and all(map(_fits, value, each))
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items()
        )
    if hint in (int, float):
        kinds = int if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and _is_finite(value)
    return isinstance(value, hint)


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _tuples(value: Any, hint: Any) -> Any:
    each = typing.get_args(hint) if typing.get_origin(hint) is not tuple else (hint,)
    wanted = any(typing.get_origin(part) is tuple for part in each)
    return tuple(value) if wanted and isinstance(value, list) else value


def _expected(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_expected, inner))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} of "
        return f"a tuple, {count}{_expected(inner[0])}"
    if origin is dict:
        return f"a dictionary of {_expected(inner[0])} and {_expected(inner[1])}"
    return "anything" if hint is Any else _WORDS.get(hint) or f"{hint.__name__}(...)"


def _repr(value: Any) -> str:
    try:
        return shown(repr(value))
    except Exception:  # of any object at all
        return f"a {type(value).__name__}"
