# SPDX-License-Identifier: Apache-2.0
"""What Orbax leaves behind when it fails to restore, collected without a sound."""

import gc
import logging
import sys
import warnings


def drop_failed_reads() -> None:
    """Collect what a failed restore left behind, without the complaints.

    Orbax leaves coroutines of a closed event loop, whose end prints many tracebacks at any later
    moment; the fault itself has been reported. The exception must be gone when this is called.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    tasks = logging.getLogger("asyncio")
    level, _ = tasks.level, tasks.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
    finally:
        sys.unraisablehook = hook
        tasks.setLevel(level)
