# SPDX-License-Identifier: Apache-2.0
"""The ways in which a run ends early, and how a message shows what it found in a file."""

import reprlib
from collections.abc import Sequence

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel = 3


class UserError(Exception):
    """A fault in what the user gave; printed without a traceback."""


class NonFiniteLossError(UserError):
    """The loss or its gradient became infinite or not a number."""


class SaveFailedError(UserError):
    """A checkpoint could not be written; those before it remain."""


class InterruptedRunError(Exception):
    """A signal ended the run after its state was saved; ``exit_code`` tells schedulers so."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def quoted(value: object) -> str:
    """Return a value read from a file for a message: escaped, on one line, of bounded length."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def some(values: Sequence[object], count: int = 5) -> str:
    """Return the first of many values for a message, and how many more there are."""
    shown = [quoted(v)[1:-1] if isinstance(v, str) else quoted(v) for v in values[:count]]
    more = f" and {len(values) - count} more" if len(values) > count else ""
    return ", ".join(shown) + more
