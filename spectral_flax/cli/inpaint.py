# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax inpaint``: fill in the masked parts of an image, or of a folder of images."""

import argparse
import pathlib
from typing import get_args

from rich.console import Console

from spectral_flax.cli.options import (
    add_model,
    add_overwrite,
    complain,
    described,
    exit_code,
    load_model,
)
from spectral_flax.inference.images import pillow
from spectral_flax.inference.inpainting import folder_jobs, inpaint_file, inpaint_folder, read_job
from spectral_flax.inference.inpainting_plan import Mode
from spectral_flax.memory import parse_memory


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser(
        "inpaint", help="fill in masked images", description=described(__doc__)
    )
    parser.add_argument("image", metavar="IMAGE", help="an image of any size, or a folder of them")
    parser.add_argument(
        "mask",
        metavar="MASK",
        help="not black where to fill in, or a shape on transparent ground; "
        "a folder: of the same names",
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="a file, or a folder")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="as the input of spectral-flax convert"
    )
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="auto",
        help="how an image is filled in: whole, with its rows over several devices, in crops "
        "around the holes, or refined from smaller sizes; by default the first that fits",
    )
    parser.add_argument(
        "--max-memory",
        type=_memory,
        metavar="SIZE",
        help="such as 8GiB: what a device may be taken of; by default most of what it has left",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="largest image that is read, by default as Pillow has it, 89478485: a small file can "
        "hold a huge image, so raise it for files that you trust",
    )
    add_model(parser)
    add_overwrite(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fill in and say where the results are; return 1 if some images could not be, 2 if none."""
    job, overwrite = (args.image, args.mask, args.output), args.overwrite
    if args.max_pixels is not None:
        if args.max_pixels < 1:
            raise ValueError(f"--max-pixels is {args.max_pixels}; expected a positive number")
        pillow().MAX_IMAGE_PIXELS = args.max_pixels
    several = pathlib.Path(args.image).is_dir()
    # Before the weights are read, find what can not be done.
    count = len(folder_jobs(*job, overwrite=overwrite)) if several else 1
    if not several:
        read_job(*job, overwrite=overwrite)
    model, _ = load_model(args, args.weights)
    console = Console(stderr=True, highlight=False)
    options = dict(mode=args.mode, max_memory=args.max_memory, report=console.print)
    with console.status("filling in"):  # on a terminal only
        if not several:
            inpaint_file(model, *job, overwrite=overwrite, **options)
            print(args.output)
            return 0
        done = 0
        for path in inpaint_folder(model, *job, overwrite=overwrite, **options, on_fault=complain):
            print(path, flush=True)
            done += 1
        return exit_code(done, count)


def _memory(text: str) -> int:
    try:
        return parse_memory(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
