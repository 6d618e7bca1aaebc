# SPDX-License-Identifier: Apache-2.0
"""The command ``spectral-flax``: list, show, profile, convert and run models from the shell."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from spectral_flax import __version__
from spectral_flax.cli import (
    compare,
    convert,
    export,
    inpaint,
    list_models,
    predict,
    profile,
    show,
    training,
    visualize,
)
from spectral_flax.cli.options import add_plugins, complain
from spectral_flax.kept_programs import keep_programs
from spectral_flax.kernels.cpu import keep_freed_memory
from spectral_flax.plugins import import_plugins

COMMANDS = (
    list_models,
    show,
    profile,
    compare,
    convert,
    predict,
    inpaint,
    visualize,
    export,
    training,
)
COMPILING = ("predict", "inpaint", "visualize")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after an error, which is told in one message.

    Where only some of several images could be used, the code is 1.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in training.PROGRAMS:
        return _train(words, own_process=arguments is None)
    args = make_parser().parse_args(_joined(words))
    if arguments is None:  # the process is ours
        keep_freed_memory()
        if args.command in COMPILING:
            keep_programs()
        warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a file, errors tell
        warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        import_plugins(args.plugins)
        return args.run(args) or 0
    except BrokenPipeError:
        return _read_enough()
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RecursionError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130


def _train(words: Sequence[str], *, own_process: bool) -> int:
    """Run the program of training that the first word names; it reads the others itself."""
    try:
        main = training.program(words[0])
    except ImportError as error:
        complain(error)
        return 2
    try:
        return main(words[1:], f"spectral-flax {words[0]}", own_process=own_process)
    except BrokenPipeError:
        return _read_enough()


def _read_enough() -> int:
    """Print no more, for whoever reads has closed the pipe; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _joined(arguments: Sequence[str]) -> list[str]:
    """Write ``--box -1,0,9,9`` as ``--box=-1,0,9,9``, which argparse takes for two options."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] in ("--box", "--at") and word.startswith("-") and "," in word:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="spectral-flax",
        description="Networks that see the whole image: list, compare, convert, run, train.",
        epilog="spectral-flax COMMAND --help tells the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )
    for module in COMMANDS:
        module.add_command(commands)
    for name, command in commands.choices.items():
        if name not in training.PROGRAMS:
            add_plugins(command)
    return parser
