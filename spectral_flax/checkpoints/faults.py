# SPDX-License-Identifier: Apache-2.0
"""Errors that tell which weights do not fit a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from spectral_flax.messages import several, shown

MANY = 5  # faults of a kind that are written out


class CheckpointError(ValueError):
    """A checkpoint does not fit a model; the message names some faults of each kind.

    ``faults`` are all, each as ``kind: what``: missing, unexpected, shape, value.
    """

    def __init__(self, title: str, faults: Iterable[str] = (), notes: Sequence[str] = ()):
        self.faults = tuple(faults)
        kinds: dict[str, list[str]] = {}
        for fault in self.faults:
            kinds.setdefault(fault.partition(":")[0], []).append(fault)
        lines = [title, *notes]
        for kind, told in kinds.items():
            lines += [f"  {fault}" for fault in told[:MANY]]
            lines += [f"  {kind}: {len(told) - MANY} more"] if len(told) > MANY else []
        super().__init__("\n".join(lines))


def misfits(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Any],
    known: Iterable[str] = (),
    *,
    shapes: bool = True,
) -> list[str]:
    """Return what is missing in ``found``, left over (and not ``known``) or of another shape.

    With ``shapes``, those of what is missing or left over are told too.
    """
    known = expected.keys() | set(known)
    told = lambda shape: f" {list(shape)}" if shapes else ""
    lines = [f"missing: {name}{told(s)}" for name, s in expected.items() if name not in found]
    lines += [
        f"unexpected: {shown(name, 160)}{told(shape_of(value))}"
        for name, value in found.items()
        if name not in known
    ]
    lines += [
        f"shape: {name} is {list(shape_of(found[name]))}; the model needs {list(shape)}"
        for name, shape in expected.items()
        if name in found and shape_of(found[name]) != shape
    ]
    return lines


def first_names(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line with the file's own names where most of the model's are not among them."""
    if 2 * len(expected.keys() & found.keys()) > len(expected):
        return []
    return [f"the file's names are {several(found)}" if found else "the file holds no arrays"]


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of an array, or of what may become one."""
    try:
        return tuple(np.shape(value))
    except ValueError:  # lists of several lengths
        return (len(value),)
