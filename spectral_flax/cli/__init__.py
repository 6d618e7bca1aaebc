# SPDX-License-Identifier: Apache-2.0
"""The command ``spectral-flax``: models listed, priced, converted and tried from the shell."""

import argparse
import sys
from collections.abc import Sequence

from spectral_flax.cli import convert, models, predict, profiles

COMMANDS = (models, profiles, convert, predict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 1 after an error, which is told in one message."""
    args = make_parser().parse_args(arguments)
    try:
        return args.run(args) or 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"spectral-flax {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="spectral-flax", description="Networks that see the whole image at once."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_command(commands)
    return parser
