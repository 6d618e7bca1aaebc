# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax inpaint``: fill in the masked parts of an image, or of a folder of images."""

import argparse
import pathlib

from spectral_flax.cli.options import (
    add_model,
    add_overwrite,
    complain,
    described,
    exit_code,
    load_model,
)
from spectral_flax.inference.inpainting import folder_jobs, inpaint_file, inpaint_folder, read_job


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
    add_model(parser)
    add_overwrite(parser)
    parser.set_defaults(run=run)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Fill in and say where the results are; return 1 if some images could not be, 2 if none."""
    job, overwrite = (args.image, args.mask, args.output), args.overwrite
    several = pathlib.Path(args.image).is_dir()
    # Before the weights are read, find what can not be done.
    count = len(folder_jobs(*job, overwrite=overwrite)) if several else 1
    if not several:
        read_job(*job, overwrite=overwrite)
    model, _ = load_model(args, args.weights)
    if not several:
        inpaint_file(model, *job, overwrite=overwrite)
        print(args.output)
        return 0
    done = 0
    for path in inpaint_folder(model, *job, overwrite=overwrite, on_fault=complain):
        print(path, flush=True)
        done += 1
    return exit_code(done, count)
