# SPDX-License-Identifier: Apache-2.0
"""The command ``spectral-flax``: models listed, priced, converted and tried from the shell."""

import argparse
import sys
from collections.abc import Sequence

from spectral_flax.cli import convert, inpaint, models, predict, profiles
from spectral_flax.cpu import keep_freed_memory

COMMANDS = (models, profiles, convert, predict, inpaint)
MAX_LINES = 20  # of an error message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after an error, which is told in one message."""
    args = make_parser().parse_args(arguments)
    if arguments is None:  # the process is ours
        keep_freed_memory()
    try:
        return args.run(args) or 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"spectral-flax {args.command}: {_shortened(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _shortened(message: str) -> str:
    """Cut off the end of a list of faults; whole models may be missing from a checkpoint."""
    lines = message.splitlines()
    more = [f"  and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "\n".join(lines[:MAX_LINES] + more)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="spectral-flax", description="Networks that see the whole image at once."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_command(commands)
    return parser
