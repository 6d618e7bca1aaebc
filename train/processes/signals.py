# SPDX-License-Identifier: Apache-2.0
"""Signals that stop a run after its current step."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils

from train.processes.distributed import any_process

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}  # 75: "temporary failure, try again"
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopSignals:
    """While in its block, Ctrl-C and SIGTERM only set ``received``; a second one acts at once.

    Of several processes SIGTERM is JAX's, which tells all of them of it and finds a step for them
    to stop after.
    """

    def __init__(self):
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        mine = EXIT_CODES if jax.process_count() == 1 else [signal.SIGINT]
        self.previous = {number: signal.signal(number, self._note) for number in mine}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def agreed(self, step: int, ask: bool) -> signal.Signals | None:
        """Return the signal to obey after ``step``, the same in all processes of a run.

        Every process must call this after each step. On Ctrl-C they agree where ``ask`` is true.
        """
        if jax.process_count() == 1:
            return self.received
        if multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM
        number = any_process(self.received or 0) if ask else 0
        return signal.Signals(number) if number else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, self.previous[number])
        # Not print: a handler may interrupt a print.
        text = f"\n{NAMES[self.received]}: saving after this step; once more to stop at once\n"
        os.write(2, text.encode())
