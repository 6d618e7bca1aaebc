# SPDX-License-Identifier: Apache-2.0
"""Bounded types of dataclass fields, and the check of values against types and bounds."""

import dataclasses
import math
import types
import typing
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval, Le, Lt

from spectral_flax.messages import shown

PATH = "path"
"""Mark of text that names a file or folder, of this machine or in a bucket."""

Path = Annotated[str, PATH]
Count = Annotated[int, Ge(1)]
Size = tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Hue = Annotated[float, Ge(0), Le(0.5)]  # a change of it, as a part of the circle of colours

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "text",
    bool: "True or False",
    types.NoneType: "None",
}


def conformed(value: Any, name: str = "") -> tuple[Any, list[str]]:
    """Return a dataclass whose fields have the right types and bounds, and the faults of ``value``.

    A list in place of a tuple becomes one. Any other wrong value is named in a line and replaced by
    its field's default, so that the rest can be checked.
    """
    changes, faults = {}, []
    hints = typing.get_type_hints(type(value), include_extras=True)
    for field in dataclasses.fields(value):
        hint, given = hints[field.name], _tuples(getattr(value, field.name), hints[field.name])
        title = f"{name}{field.name.replace('_', '-')}"
        expected = _unmet(given, hint) if _fits(given, hint) else _expected(hint)
        if expected:
            faults.append(f"--{title} is {_repr(given)}; expected {expected}")
            makes = field.default_factory is not dataclasses.MISSING
            given = field.default_factory() if makes else field.default
        elif dataclasses.is_dataclass(hint):
            given, within = conformed(given, f"{title}.")
            faults += within
        changes[field.name] = given
    return dataclasses.replace(value, **changes), faults


def paths(kind: type) -> list[str]:
    """Return the names of a dataclass's fields that hold a path."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return [name for name, hint in hints.items() if Path in (hint, *typing.get_args(hint))]


def _unmet(value: Any, hint: Any) -> str:
    """Return the first bound of ``hint`` that a value of the right type is outside of, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        broken = (_words(b) for b in inner[1:] if isinstance(b, Bound) and not _within(value, b))
        return next(broken, "") or _unmet(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return _unmet(value, next(each for each in inner if _fits(value, each)))
    if origin is tuple:
        count, alike = len(value), inner[-1] is Ellipsis
        words = list(map(_unmet, value, inner[:1] * count if alike else inner))
        place = next((i for i, word in enumerate(words) if word), None)
        if place is None:
            return ""
        differ = not alike and len(set(inner)) > 1
        return words[place] + (f" (value {place + 1} of {count})" if differ else "")
    return ""


Bound = Ge | Gt | Le | Lt | Interval


def _within(value: Any, bound: Bound) -> bool:
    match bound:
        case Ge(least):
            return value >= least
        case Gt(least):
            return value > least
        case Le(most):
            return value <= most
        case Lt(most):
            return value < most
    return all(_within(value, each) for each in bound)


def _words(bound: Bound) -> str:
    match bound:
        case Ge(least):
            return f"at least {least}"
        case Gt(least):
            return f"above {least}" if least else "positive"
        case Le(most):
            return f"at most {most}"
        case Lt(most):
            return f"below {most}"
    low = f"({bound.gt}" if bound.gt is not None else f"[{bound.ge}"
    high = f"{bound.lt})" if bound.lt is not None else f"{bound.le}]"
    return f"in {low}, {high}"


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(value, inner[0])
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
    if origin is Annotated:
        return _expected(inner[0])
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
