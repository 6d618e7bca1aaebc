# SPDX-License-Identifier: Apache-2.0
"""What a compiled program sends between devices, read from its text."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

KINDS = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
_INSTRUCTION = re.compile(rf"= (\S.*?) ({KINDS})(-start)?\(")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CALL = re.compile(r"\b(body|to_apply|calls|\w+_computations?)=(?:%?([\w.-]+)|\{([^}]*)\})")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """The collectives of one kind: how many, and the bytes of their results on a device."""

    count: int
    bytes: int


def collectives(program: str) -> dict[str, Collective]:
    """Return the collectives in the text of a compiled program, ``compiled.as_text()``, by kind.

    Those of several arrays count as one. One in a loop counts as often as that runs, or once where
    the compiler does not know; one in a branch counts as if it were taken.
    """
    found: dict[str, Collective] = {}
    computation, runs = "", _runs(program)
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[1]
        elif match := _INSTRUCTION.search(line):
            result, kind, start = match.groups()
            arrays = [_size(bits, shape) for _, bits, shape in _ARRAY.findall(result)]
            if start and kind != "all-reduce":  # whose result holds the operands too, in front
                arrays = arrays[len(arrays) // 2 :]
            count, size = found.get(kind, (0, 0))
            times = runs(computation)
            found[kind] = Collective(count + times, size + times * sum(arrays))
    return found


def _runs(program: str) -> Callable[[str], int]:
    """Return a function that tells how often a computation of a program, by name, runs."""
    callers: dict[str, list[tuple[str, int]]] = {}
    computation = ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[1]
        for keyword, called, branches in _CALL.findall(line):
            known = _TRIPS.search(line) if keyword == "body" else None
            for name in (called, *re.findall(r"[\w.-]+", branches)):
                callers.setdefault(name, []).append((computation, int(known[1]) if known else 1))

    @functools.cache
    def runs(name: str) -> int:
        return sum(times * runs(caller) for caller, times in callers.get(name, ())) or 1

    return runs


def _size(bits: str, shape: str) -> int:
    size = int(bits or 8)  # a truth value takes a byte
    for length in filter(None, shape.split(",")):
        size *= int(length)
    return size // 8
