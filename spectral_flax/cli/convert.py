# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax convert``: convert weights to another format or to other names."""

import argparse

from spectral_flax.checkpoints.store import check_target, save
from spectral_flax.checkpoints.weights import variables
from spectral_flax.cli.options import add_model, add_overwrite, described, load_model


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser("convert", help="convert weights", description=described(__doc__))
    parser.add_argument(
        "input",
        metavar="IN",
        help="a file (.pth, .pth.tar, .pyth, .ckpt, "
        ".safetensors), a folder, or a repository of the Hub (owner/name)",
    )
    parser.add_argument(
        "output",
        metavar="OUT",
        help="a file (.safetensors, or .pth for PyTorch), "
        "a directory for Orbax (.orbax) or, otherwise, for the Hub",
    )
    parser.add_argument(
        "--names",
        choices=("ours", "torch"),
        help="of the arrays: those of our modules or of the published PyTorch code; if not given, "
        "torch for PyTorch's files, ours for others",
    )
    add_model(parser)
    add_overwrite(parser)
    parser.set_defaults(run=run)  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Read, fill the model, write."""
    check_target(args.output, overwrite=args.overwrite)  # before the work
    model, weights = load_model(args, args.input)
    save(model, args.output, names=args.names, overwrite=args.overwrite)
    arrays = variables(model)
    count = sum(array.size for array in arrays.values())
    if weights.foreign:
        print(f"left unbuilt in {args.input}: {', '.join(weights.foreign)}")
    record, numbers = model.record, f"{count / 1e6:.2f} M numbers"
    kind = f" ({record.weights})" if record.weights else ""
    print(f"{args.output}: {record.model}{kind}, {len(arrays)} arrays, {numbers}")
