# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax inpaint``: fill in the masked parts of an image, or of a folder of images."""

import argparse
import pathlib

from spectral_flax.checkpoints.store import build, read_weights
from spectral_flax.cli.options import add_options
from spectral_flax.inpainting import inpaint_file, inpaint_folder


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser("inpaint", help="fill in masked images", description=__doc__)
    parser.add_argument("image", metavar="IMAGE", help="an image of any size, or a folder of them")
    parser.add_argument(
        "mask", metavar="MASK", help="white where to fill in; a folder: of the same names"
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="a file, or a folder")
    parser.add_argument("--model", metavar="NAME", help="lama, lama_big; our files know theirs")
    parser.add_argument("--weights", metavar="FILE", required=True, help="of the model")
    add_options(parser)
    parser.set_defaults(run=run)  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Restore the model, fill in, and say where the results are."""
    weights = read_weights(args.weights)
    model, _, _ = build(weights, args.model, dict(args.options), source=args.weights)
    if pathlib.Path(args.image).is_dir():
        for path in inpaint_folder(model, args.image, args.mask, args.output):
            print(path, flush=True)
    else:
        inpaint_file(model, args.image, args.mask, args.output)
        print(args.output)
