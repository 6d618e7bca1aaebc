# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax train configs/NAME.py [--option value ...]``, or ``python -m train``.

With ``--rehearse`` it only tries out what the run would do.
"""

import os
import shlex
import sys

from train.command.line import parse
from train.errors import InterruptedRunError, UserError


def main(
    arguments: list[str], program: str = "python -m train", *, own_process: bool = False
) -> int:
    """Run the command line and return the exit code: 0 done, 2 refused, 75 or 130 interrupted.

    ``program`` is what the user typed before the arguments. In a process of its own the command
    keeps freed memory and compiled programs.
    """
    if arguments == ["--version"]:
        from spectral_flax import __version__

        print(f"spectral-flax {__version__}")
        return 0
    rehearses = "--rehearse" in arguments
    words = [word for word in arguments if word != "--rehearse"]
    try:
        config = parse(words, program)
        # Not before --help and typing errors are dealt with.
        from spectral_flax.kept_programs import keep_programs
        from spectral_flax.kernels.cpu import keep_freed_memory
        from train.processes.distributed import joined
        from train.run.loop import run
        from train.run.rehearsal import rehearse, show

        if own_process:
            keep_freed_memory()
            keep_programs()
        with joined(config.processes):
            if rehearses:
                show(rehearse(config))
            else:
                run(config, f"{program} {shlex.join(arguments)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except InterruptedRunError as interruption:
        print(interruption, file=sys.stderr)
        return interruption.exit_code
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("Ctrl-C: stopped at once; what was saved before remains", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], own_process=True))
