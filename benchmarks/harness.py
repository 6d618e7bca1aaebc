# SPDX-License-Identifier: Apache-2.0
"""Forms of one library that take turns in a process, and where a result was taken."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks.results import write


def take_turns(calls: dict[str, Callable[[], object]], repeats: int, warmup: int = 2) -> dict:
    """Return the times of each call, ``{"wall": [...], "cpu": [...]}`` in seconds.

    The calls take turns, so that whatever else the machine does befalls all alike; each must
    return only when its work is done. CPU seconds are those of all threads of this process.
    """
    times = {name: {"wall": [], "cpu": []} for name in calls}
    for i in range(warmup + repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if i >= warmup:
                times[name]["wall"].append(time.perf_counter() - wall)
                times[name]["cpu"].append(time.process_time() - cpu)
    return times


def ratio(numerator: list[float], denominator: list[float]) -> dict:
    """Return the median and the quartiles of the ratio within each turn."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    low, middle, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    )
    return {"median": middle, "quartiles": [low, high]}


def about(device: str | None = None) -> dict:
    """Return the machine, the versions and the date; ``device`` in place of JAX's own, if given.

    A process that starts others must give it: JAX would take the accelerator away from them.
    """
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), cpu)
    return {
        "date": datetime.date.today().isoformat(),
        "device": device or jax.devices()[0].device_kind,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def save(name: str, result: dict) -> Path:
    """Write ``benchmarks/results/NAME.json``."""
    path = write(name, result)
    print(f"\n{result['about']}\nwritten to {path}")
    return path
