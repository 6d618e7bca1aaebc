# SPDX-License-Identifier: Apache-2.0
"""Throughput, time spent waiting for data, and peak memory of a run."""

import contextlib
import resource
import statistics
import sys
import time
from collections.abc import Iterator

import jax

# What the entries of a run hold that another run of the same config would not repeat.
MEASURED = (
    "examples_per_second",
    "step_milliseconds",
    "data_wait_share",
    "seconds",
    "seconds_left",
    "memory_gib",
    "device_memory_gib",
)


class StepTimer:
    """Step times, in windows from one logged step to the next.

    The first window opens when the first step is done, so that compilation counts in none.
    """

    def __init__(self, start: int):
        self.done = start
        self.began = time.perf_counter()
        self.last: float | None = None  # when the newest step was done
        self.intervals: list[float] = []
        self.waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what is done in this block as waiting for data."""
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    def step(self, step: int) -> None:
        """Note that a step is done."""
        now = time.perf_counter()
        if self.last is None:
            self.waited = 0.0
        else:
            self.intervals.append(now - self.last)
        self.done, self.last = step, now

    def pause(self) -> None:
        """Leave out the time since the newest step: it went into something else."""
        if self.last is not None:
            self.last = time.perf_counter()

    def window(self, steps: int, batch_size: int) -> dict[str, float]:
        """Return the figures of the window that ends with the newest step; the next one opens.

        ``seconds_left`` of a run of ``steps`` leaves out evaluations.
        """
        figures = {"seconds": round(self.seconds(), 3)}
        if self.intervals:  # else the window holds no step but the first
            elapsed = sum(self.intervals)
            mean = elapsed / len(self.intervals)
            figures |= {
                "examples_per_second": round(batch_size / mean, 1),
                "step_milliseconds": round(1000 * statistics.median(self.intervals), 2),
                "data_wait_share": round(self.waited / elapsed, 4),
                "seconds_left": round((steps - self.done) * mean, 1),
            }
        self.intervals, self.waited = [], 0.0
        return figures

    def seconds(self) -> float:
        """Return the time since the run began."""
        return time.perf_counter() - self.began


def memory() -> dict[str, float]:
    """Return the most memory held so far, in GiB: by this process, and by its fullest device.

    Devices that do not tell, such as CPUs, are left out.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"memory_gib": peak * (1 if sys.platform == "darwin" else 1024)}
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in told if "peak_bytes_in_use" in stats]
    if peaks:
        found["device_memory_gib"] = max(peaks)
    return {name: round(size / 2**30, 3) for name, size in found.items()}
