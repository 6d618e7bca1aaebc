# SPDX-License-Identifier: Apache-2.0
"""What a compiled program sends between devices, read from its text."""

import re
from typing import NamedTuple

KINDS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
_INSTRUCTION = re.compile(rf"= (\S.*?) ({KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """The collectives of one kind: how many, and the bytes of their results on a device."""

    count: int
    bytes: int


def collectives(program: str) -> dict[str, Collective]:
    """Return the collectives in the text of a compiled program, ``compiled.as_text()``, by kind.

    Those of several arrays count as one. One in a loop counts once, however often that runs.
    """
    found: dict[str, Collective] = {}
    for result, kind, start in _INSTRUCTION.findall(program):
        arrays = [_size(bits, shape) for _, bits, shape in _ARRAY.findall(result)]
        if start and kind != "all-reduce":  # whose result holds the operands too, in front
            arrays = arrays[len(arrays) // 2 :]
        count, size = found.get(kind, (0, 0))
        found[kind] = Collective(count + 1, size + sum(arrays))
    return found


def _size(bits: str, shape: str) -> int:
    size = int(bits or 8)  # a truth value takes a byte
    for length in filter(None, shape.split(",")):
        size *= int(length)
    return size // 8
