# SPDX-License-Identifier: Apache-2.0
"""Contestants that take turns as whole processes, each alone on the machine.

A contestant names a function that prepares a call; its process gets the whole machine, an
environment of its own and the allocator that it likes. The turns go A B C, A B C, so that a slow
minute befalls all. The work of others on the machine is measured during each turn: a busy machine
is refused before the first, and marked after any.

``python -m benchmarks.turns MODULE:FUNCTION`` is such a process: it reads the arguments of the
function as JSON from its standard input, and prints what it measured.
"""

import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

BUSY = 0.1
"""Share of the cores at work for others from which on times are not to be published."""
KEPT = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
"""Environment in which glibc keeps what is freed, in place of giving it back to the system."""
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""Environment in which freed memory goes back at once, lest it count as in use."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A call that returns when its work is done, and what is known of it beside its time.

    Attributes:
      run: does the work a number of times, and returns when all of it is done.
      facts: figures for the table, such as seconds of tracing and of compiling.
      program: what is run, as XLA compiled it, where it did.
    """

    run: Callable[[int], None]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    program: Any = None


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Attributes:
      name: how the table calls it.
      function: ``MODULE:FUNCTION``, which takes ``arguments`` and returns ``Prepared``.
      arguments: of the function, as JSON has them.
      environment: variables that the process has beside those of its parent.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long each process measures.

    Attributes:
      turns: processes of each contestant.
      groups: times that a process takes; it reports the median.
      seconds: calls in a group are as many as take about so long.
      limit: seconds after which a process is stopped.
    """

    turns: int = 3
    groups: int = 7
    seconds: float = 0.3
    limit: float = 900


class Failed(Exception):
    """A contestant's process ended without a time; the message says why."""


def one_turn(contestant: Contestant, effort: Effort, memory: bool = False) -> dict[str, Any]:
    """Return what one process of a contestant measures, and how busy others kept the machine.

    Raises:
      Failed: it ended with an error or took longer than ``effort.limit``.
    """
    command = [sys.executable, "-m", "benchmarks.turns", contestant.function]
    given = {
        "arguments": dict(contestant.arguments),
        "effort": dataclasses.asdict(effort),
        "memory": memory,
    }
    environment = os.environ | contestant.environment | (RETURNED if memory else {})
    before = _processor_seconds()
    try:
        done = subprocess.run(
            command,
            input=json.dumps(given),
            env=environment,
            capture_output=True,
            text=True,
            timeout=effort.limit,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"more than {effort.limit:.0f} s") from error
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or ["no message"])[-1][:300])
    return json.loads(done.stdout.splitlines()[-1]) | {"others": _others(before)}


def take_turns(contestants: Mapping[str, Contestant], effort: Effort) -> dict[str, list[dict]]:
    """Return the results of each contestant by its key, one of each turn.

    A contestant that fails takes no further turn; its list ends with ``{"failed": why}``.
    """
    results: dict[str, list[dict]] = {key: [] for key in contestants}
    for _ in range(effort.turns):
        for key, contestant in contestants.items():
            mine = results[key]
            if mine and "failed" in mine[-1]:
                continue
            try:
                mine.append(one_turn(contestant, effort))
            except Failed as failure:
                mine.append({"failed": str(failure)})
    return results


def fastest(contestants: Iterable[Contestant], effort: Effort) -> tuple[Contestant, dict]:
    """Return the setting that is fastest in one short turn of each, and the medians of all.

    Raises:
      Failed: none of them gave a time.
    """
    short = dataclasses.replace(effort, turns=1, groups=3)
    named = {contestant.name: contestant for contestant in contestants}
    if len(named) == 1:
        return next(iter(named.values())), {}
    tried = {name: summary(results) for name, results in take_turns(named, short).items()}
    seconds = {name: found["seconds"] for name, found in tried.items() if "seconds" in found}
    if not seconds:
        raise Failed("; ".join(f"{name}: {found['failed']}" for name, found in tried.items()))
    return named[min(seconds, key=seconds.__getitem__)], tried


def summary(results: list[dict]) -> dict[str, Any]:
    """Return the median over turns of the medians, the least and the most, and the facts."""
    if "failed" in results[-1]:
        return results[-1]
    medians = [statistics.median(result["seconds"]) for result in results]
    return {
        "seconds": statistics.median(medians),
        "least": min(medians),
        "most": max(medians),
        "others": max(result["others"] for result in results),
        "facts": {k: _median(r["facts"][k] for r in results) for k in results[-1]["facts"]},
    }


def _median(values: Iterable[Any]) -> Any:
    values = list(values)
    return statistics.median(values) if isinstance(values[0], float | int) else values[0]


def ratio(numerator: list[dict], denominator: list[dict]) -> dict[str, float]:
    """Return the ratio of times: of the medians, and the least and most of one turn's pair."""
    pairs = [
        statistics.median(a["seconds"]) / statistics.median(b["seconds"])
        for a, b in zip(numerator, denominator, strict=True)
    ]
    middle = summary(numerator)["seconds"] / summary(denominator)["seconds"]
    return {"ratio": middle, "least": min(pairs), "most": max(pairs)}


def refuse_a_busy_machine(allowed: bool) -> float:
    """Return the share of the cores that others use just now.

    Raises:
      SystemExit: it is above ``BUSY``, and that is not allowed.
    """
    before = _processor_seconds()
    time.sleep(2)
    share = _others(before)
    if share > BUSY and not allowed:
        raise SystemExit(
            f"the machine is busy: others use {share:.0%} of its cores, {BUSY:.0%} at most "
            "are allowed; wait, or give --busy for times that are marked"
        )
    return share


def _processor_seconds() -> tuple[float, float, float]:
    """Return the clock, and seconds of the processor: of all, and of this process's children."""
    fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    used = sum(fields[:8]) - fields[3] - fields[4]
    times = os.times()
    mine = times.user + times.system + times.children_user + times.children_system
    return time.monotonic(), used / os.sysconf("SC_CLK_TCK"), mine


def _others(before: tuple[float, float, float]) -> float:
    clock, used, mine = (b - a for a, b in zip(before, _processor_seconds(), strict=True))
    return max(0.0, used - mine) / (clock * (os.cpu_count() or 1))


def _resident(field: str) -> int:
    """Return the bytes in memory that Linux reports for this process."""
    # Not ``ru_maxrss``: a new process inherits that of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(prepared: Prepared, effort: Effort) -> dict[str, Any]:
    """Return seconds of a call in each group, of the clock and of all threads of this process."""
    begun = time.perf_counter()
    prepared.run(1)
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    prepared.run(2)
    calls = max(1, round(2 * effort.seconds / (time.perf_counter() - begun)))
    seconds, cpu = [], []
    for _ in range(effort.groups):
        begun = time.perf_counter(), time.process_time()
        prepared.run(calls)
        seconds.append((time.perf_counter() - begun[0]) / calls)
        cpu.append((time.process_time() - begun[1]) / calls)
    return {"seconds": seconds, "cpu": cpu, "facts": {"first": first} | dict(prepared.facts)}


def growth(prepared: Prepared) -> dict[str, Any]:
    """Return by how many bytes the process grows, at its largest, in one call."""
    before = _resident("VmRSS")
    # The largest size of a process is counted anew: so far it is that of preparing the call.
    Path("/proc/self/clear_refs").write_text("5")
    prepared.run(1)
    return {"bytes": _resident("VmHWM") - before}


def main() -> None:
    module, function = sys.argv[1].split(":")
    given = json.loads(sys.stdin.read())
    prepared = getattr(importlib.import_module(module), function)(**given["arguments"])
    found = growth(prepared) if given["memory"] else measure(prepared, Effort(**given["effort"]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
