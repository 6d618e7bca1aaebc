# SPDX-License-Identifier: Apache-2.0
"""A watch over the processes of a run: when one dies, the others end, and say why.

JAX ends them too, later and with a trace of C++ in place of a reason.
"""

import contextlib
import multiprocessing
import os
import socket
import threading
import time

import jax
from jax._src.distributed import global_state

from train.processes.coordination import PREFIX

BEAT = 3.0  # seconds between two signs of life
MISSED = 10  # signs in a row that a process misses before it is taken for dead
_PLACE = f"{PREFIX}/alive"


class Watch:
    """Gives signs of life of this process and looks for those of the others, in a thread.

    Signs travel by JAX's coordination service, which process 0 runs: where it is process 0 that
    dies, JAX itself ends the others at once.
    """

    def __init__(self, beat: float = BEAT, missed: int = MISSED):
        self.index, self.client = global_state.process_id, global_state.client
        self.beat, self.missed = beat, missed
        # Counted in looks, not in seconds, lest a process that was held up itself miss the others.
        self.signs = {i: ("", 0) for i in range(global_state.num_processes) if i != self.index}
        self.leaving = threading.Event()
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.thread.start()

    def leave(self) -> None:
        """End the watch: this process is done, and need not be missed."""
        self._stop("done", "")

    def fail(self, code: int, why: str) -> None:
        """Tell the others that this process ends with exit ``code``, and why; they do the same.

        It ends by itself after a while, since JAX would wait for the others at its end.
        """
        self._stop(f"failed {code}", why)
        timer = threading.Timer(2 * self.beat, _exit, [code])
        timer.daemon = True
        timer.start()

    def _stop(self, state: str, text: str) -> None:
        self.leaving.set()
        self.thread.join(self.beat)
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone
            self._give(state, text)

    def _give(self, state: str, text: str) -> None:
        place = f"{_PLACE}/{self.index}"
        self.client.key_value_set(place, f"{state}\n{text}", allow_overwrite=True)

    def _run(self) -> None:
        beats = 0
        while not self.leaving.wait(self.beat if beats else 0):
            beats += 1
            try:
                self._give(f"beat {beats}", socket.gethostname())
                signs = dict(self.client.key_value_dir_get(_PLACE))
            except jax.errors.JaxRuntimeError:  # process 0 is gone, as JAX is about to say
                continue
            for index in list(self.signs):
                self._look(index, signs.get(f"{_PLACE}/{index}", "\n"))

    def _look(self, index: int, sign: str) -> None:
        old, missed = self.signs[index]
        state, _, text = sign.partition("\n")
        self.signs[index] = (sign, 0) if sign != old else (old, missed + 1)
        if state == "done":
            del self.signs[index]
        elif state.startswith("failed"):
            self._end(int(state.split()[1]), f"process {index} has ended: {text}")
        elif self.signs[index][1] > self.missed:
            host = f" on {text}" if text else ""
            self._end(
                1,
                f"process {index}{host} has given no sign of life for "
                f"{self.missed * self.beat:.0f} seconds: killed, preempted, or cut off; when all "
                "processes are started again, the run goes on from its last checkpoint",
            )

    def _end(self, code: int, why: str) -> None:
        os.write(2, f"process {self.index} ends: {why}\n".encode())
        if self.index == 0:  # the others learn of it from here
            time.sleep(2 * self.beat)
        _exit(code)


def _exit(code: int) -> None:
    """End the process whatever its main thread waits for, with the processes that read its data."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
