# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax export``: write a model as ONNX or StableHLO, which run without this library."""

import argparse

from spectral_flax.checkpoints.public.table import default_row
from spectral_flax.cli.options import add_model, add_overwrite, described, load_model, parse_size
from spectral_flax.exporting.export import FORMATS, TOLERANCE, check_export, export


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser(
        "export", help="write ONNX or StableHLO files", description=described(__doc__)
    )
    add_model(parser, positional=True)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="as in spectral-flax predict; without it the model's own public weights",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True,
        help="a file; for several sizes each name ends in its size",
    )  # fmt: skip
    parser.add_argument("--format", choices=list(FORMATS), help="by default as OUT ends")
    parser.add_argument(
        "--batch", type=_batch, default="dynamic", metavar="N|dynamic",
        help="examples at a time (default: dynamic, any number)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=parse_size, nargs="+", metavar="N|HxW",
        help="of the images, one or several; by default the model's own",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, help="of the clips of a video model")
    parser.add_argument(
        "--inputs", choices=("pixels", "prepared"), default="pixels",
        help="uint8 RGB, normalised inside (default), or the input of the model itself",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="ERROR",
        help=f"largest relative error to accept (default: {TOLERANCE:g})",
    )  # fmt: skip
    add_overwrite(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Load, export, and say how far each file is from the model."""
    if args.weights is None and args.model is None:
        raise ValueError("give the name of a model, or --weights that know theirs")
    how = dict(format=args.format, size=args.size, overwrite=args.overwrite)
    check_export(args.output, **how)  # before the weights are read
    source = default_row(args.model).name if args.weights is None else args.weights
    model, _ = load_model(args, source)
    told = dict(batch=args.batch, frames=args.frames, inputs=args.inputs, tolerance=args.tolerance)
    for file in export(model, args.output, **how, **told):
        size = "x".join(map(str, file.size))
        megabytes = file.path.stat().st_size / 1e6
        error = f"largest relative error {file.error:.1e}"
        print(f"{file.path}: {size}, {megabytes:.1f} MB, {error}", flush=True)


def _batch(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
