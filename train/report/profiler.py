# SPDX-License-Identifier: Apache-2.0
"""Traces of a few steps by JAX's profiler, for TensorBoard, Perfetto or XProf."""

import tempfile
from pathlib import Path

import jax

from spectral_flax import buckets

WARM_UP = 3  # steps that are not traced: compilation and the first transfers


class Profile:
    """Traces ``steps`` steps of a run, after the warm-up, into ``folder``; none if it is 0."""

    def __init__(self, folder: "buckets.Path", start: int, steps: int):
        self.folder = folder
        self.first, self.last = start + WARM_UP, start + WARM_UP + steps
        self.running, self.due = False, steps > 0

    def step(self, step: int) -> bool:
        """Note that a step is done; say whether the trace is now written."""
        if self.due and not self.running and step >= self.first:
            # The profiler knows local folders only.
            self.draft = tempfile.TemporaryDirectory() if buckets.is_remote(self.folder) else None
            jax.profiler.start_trace(self.draft.name if self.draft else self.folder)
            self.running = True
        elif self.running and step >= self.last:
            return self.stop()
        return False

    def stop(self) -> bool:
        """Write the trace if one is running, and say whether it was."""
        was_running, self.running = self.running, False
        if was_running:
            self.due = False
            jax.profiler.stop_trace()
            if self.draft is not None:
                with self.draft as draft:
                    buckets.send(Path(draft), self.folder)
        return was_running
