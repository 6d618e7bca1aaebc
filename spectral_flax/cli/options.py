# SPDX-License-Identifier: Apache-2.0
"""Model options on the command line: ``-O ratio=0.5 -O blocks_at={2:(1,)}``."""

import argparse
import ast
import glob
import sys
from collections.abc import Sequence
from typing import Any

from flax import nnx

from spectral_flax.checkpoints.store import build, read_weights
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.models.record import Card
from spectral_flax.models.registry import list_models

MAX_LINES = 20  # of an error message; whole models may be missing from a checkpoint


def described(text: str) -> str:
    """Return the docstring of a command's module as people read it: no name, no marks of code."""
    told = text.partition(": ")[2].replace("``", "").replace("`", "").strip()
    return told[:1].upper() + told[1:]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--option``, which may be given many times."""
    parser.add_argument(
        "-O", "--option", dest="options", metavar="NAME=VALUE", type=_option, action="append",
        default=[], help="an option of the model, such as ratio=0.5 or lfu=True; may be repeated",
    )  # fmt: skip


def add_model(parser: argparse.ArgumentParser, *, positional: bool = False) -> None:
    """Add what is to be known of weights to build their model and fill it."""
    told = dict(metavar="NAME", help="as in spectral-flax list; files of this library know theirs")
    if positional:
        parser.add_argument("model", nargs="?", **told)
    else:
        parser.add_argument("--model", **told)
    parser.add_argument("--entry", help="which set of weights, where a PyTorch file has several")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="the last parameters of a run that also keeps averaged ones",
    )
    parser.add_argument(
        "--allow-non-finite", action="store_true", help="take weights that are NaN or infinite"
    )
    add_options(parser)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add ``--plugins``, which may be given many times."""
    parser.add_argument(
        "--plugins", metavar="FILE", action="append", default=[],
        help="a Python file, or module, that registers models or blocks of your own",
    )  # fmt: skip


def load_model(args: argparse.Namespace, source: str) -> tuple[nnx.Module, Weights]:
    """Return the model that ``source`` holds, filled, and its weights as they were read."""
    weights = read_weights(source, entry=args.entry, weights="raw" if args.raw else None)
    how = dict(source=source, allow_non_finite=args.allow_non_finite)
    return build(weights, args.model, dict(args.options), **how), weights


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite``: without it nothing that exists is overwritten."""
    parser.add_argument(
        "--overwrite", action="store_true", help="write over files that exist; else an error"
    )


def complain(error: Exception | str) -> None:
    """Say what is wrong on the standard error, in one message."""
    if isinstance(error, OSError) and error.filename is not None:
        error = f"{error.filename!r}: {error.strerror}"
    lines = str(error).splitlines() or [type(error).__name__]
    more = [f"  and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    print("error:", "\n".join(lines[:MAX_LINES] + more), file=sys.stderr, flush=True)


def exit_code(done: int, wanted: int) -> int:
    """Return 0 if all of several things were done, 1 if some were, 2 if none was."""
    return 0 if done == wanted else 1 if done else 2


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word: bfloat16
        return name, value


def model_names(words: Sequence[str]) -> list[str]:
    """Return the models that names and globs name, each once.

    Raises:
      ValueError: a glob names none.
    """
    names = []
    for word in words:
        globbed = glob.has_magic(word)
        inside = list_models(word) if globbed else [word]
        if globbed and not inside:
            raise ValueError(f"no model matches {word!r}; spectral-flax list tells the names")
        names += inside
    return list(dict.fromkeys(names))


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of ``224`` or ``256x192``."""
    parts = text.split("x")
    try:
        height, width = (int(part) for part in (parts * 2 if len(parts) == 1 else parts))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        message = f"{text!r} is not a size such as 224 or 256x192 (height x width)"
        raise argparse.ArgumentTypeError(message) from None
    return height, width


def input_shape(about: Card, size: tuple[int, int] | None, frames: int | None, channels: int):
    """Return the shape of one input: the card's, where nothing else is asked for."""
    *time, height, width = about.input_size
    if frames is not None and not time:
        raise ValueError(f"--frames {frames} is for video models; this one takes images")
    height, width = size or (height, width)
    return (1, *([frames] if frames else time), height, width, channels)
