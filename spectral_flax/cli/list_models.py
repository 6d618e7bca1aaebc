# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax list``: the names of the models."""

import argparse

from rich.console import Console
from rich.table import Table

from spectral_flax.models.registry import card, list_models


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser("list", help="list the models", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", metavar="GLOB",
                        help='names to list, such as "ffc_*" (all by default)')  # fmt: skip
    parser.add_argument("--long", action="store_true", help="with source, licence and results")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the names."""
    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; try: spectral-flax list")
    if not args.long:
        print("\n".join(names))  # plain, for other programs
        return
    table = Table("model", "input", "paper", "code", "licence", "published", show_edge=False)
    for name in names:
        about = card(name)
        size = "x".join(map(str, about.input_size))
        table.add_row(name, size, about.paper, about.code, about.licence, about.published)
    Console().print(table)
