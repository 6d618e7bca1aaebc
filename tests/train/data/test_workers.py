"""Worker processes that read the data: when one is lost, and who obeys a signal."""

import signal

import pytest

from train.config import Data
from train.data.pipeline import Batches, leave_signals
from train.errors import UserError


class Ending:
    """An iterator whose worker process has ended."""

    def __init__(self, error):
        self.error = error

    def __next__(self):
        raise self.error


KILLED = RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search ...")


@pytest.mark.parametrize(
    ("error", "workers", "expected", "message"),
    [
        (KILLED, 1, UserError, "ended with exit code -9"),
        (EOFError(), 1, UserError, "is gone"),
        (BrokenPipeError(), 2, UserError, "is gone"),
        (RuntimeError("a fault of an example"), 1, RuntimeError, "a fault of an example"),
        (EOFError("a file"), 0, EOFError, "a file"),
    ],
)
def test_a_worker_process_that_is_lost_is_told_from_other_faults(error, workers, expected, message):
    batches = Batches(None, Data(workers=workers), 2)
    batches.iterator = Ending(error)
    with pytest.raises(expected, match=message):
        next(batches)


def test_worker_processes_leave_signals_to_the_main_process():
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    try:
        leave_signals(0, 1)
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
