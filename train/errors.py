# SPDX-License-Identifier: Apache-2.0
"""The ways in which a run ends early, and text fit to be shown in a message."""


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


def shown(text: object, length: int = 200) -> str:
    """Return text from a file or another program on one line, bounded, with no control characters.

    What a terminal would obey or cannot show is written as Python escapes.
    """
    text = str(text)[: length + 1]
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def reason(error: BaseException, length: int = 200) -> str:
    """Return why an operation failed: of a failure of the system its plain words, else a line."""
    if isinstance(error, OSError) and error.strerror:
        return shown(error.strerror, length)
    text = str(error).strip() or type(error).__name__
    return shown(text.splitlines()[0], length)
