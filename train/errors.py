# SPDX-License-Identifier: Apache-2.0
"""Errors that end a run early."""


class UserError(Exception):
    """A fault in what the user gave; printed without a traceback."""


class AgreedError(UserError):
    """A fault that one process of a run found, or several: all of them raise it."""


class NonFiniteLossError(UserError):
    """The loss or its gradient became infinite or not a number."""


class SaveFailedError(UserError):
    """A checkpoint could not be written; those before it remain."""


class InterruptedRunError(Exception):
    """A signal ended the run after its state was saved; ``exit_code`` tells schedulers so."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
