# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax list``: families of models and their parts; with a pattern or filter, names."""

import argparse
import inspect
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spectral_flax.checkpoints.public import table as public
from spectral_flax.cli.options import described
from spectral_flax.layers.blocks import BLOCKS
from spectral_flax.models.options import model_options
from spectral_flax.models.registry import MODELS, Model, card, list_models

_FILTERS = {
    "family": dict(help="of one family, such as resnet or unet"),
    "task": dict(help="of one task: classification, pose, segmentation, inpainting"),
    "block": dict(help="with one block, such as bat"),
    "rank": dict(type=int, help="2: of images; 3: of videos"),
}


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser("list", help="list the models", description=described(__doc__))
    parser.add_argument("pattern", nargs="?", metavar="GLOB", help='names, such as "ffc_*"; "*"')
    for name, options in _FILTERS.items():
        parser.add_argument(f"--{name}", **options)
    parser.add_argument("--ffc", action="store_true", help="of fast Fourier convolutions")
    parser.add_argument("--published", action="store_true", help="with a published result")
    parser.add_argument("--pretrained", action="store_true",
                        help="public weights of these models, in place of their names")  # fmt: skip
    parser.add_argument("--long", action="store_true", help="with source, licence and results")
    parser.add_argument("--options", action="store_true", help="with the options of each")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the overview, or the names that fit."""
    filters = {name: getattr(args, name) for name in _FILTERS}
    filters |= {name: True if getattr(args, name) else None for name in ("ffc", "published")}
    plain = not (args.long or args.options)
    if args.pattern is None and plain and not args.pretrained and not any(filters.values()):
        _overview()
        return
    if args.pretrained:
        _print_weights(args.pattern or "*", filters, args.long)
        return
    names = list_models(args.pattern or "*", **filters)
    if not names:
        filtered = " and the filters" if any(filters.values()) else ""
        pattern = args.pattern or "*"
        raise ValueError(f"no model matches {pattern!r}{filtered}; try: spectral-flax list")
    if plain:
        print("\n".join(names))  # for other programs
    for name in names if args.options else ():
        _print_options(name)
    if not args.long:
        return
    table = Table("model", "input", "paper", "code", "licence", "published", show_edge=False)
    for name in names:
        about = card(name)
        size = "x".join(map(str, about.input_size))
        table.add_row(name, size, about.paper, about.code, about.licence, about.published)
    Console().print(table)


def _print_weights(pattern: str, filters: dict[str, Any], long: bool) -> None:
    names = public.list_models(pattern, pretrained=True, **filters)
    if not names:
        raise ValueError(
            f"no public weights match {pattern!r}; try: spectral-flax list --pretrained"
        )
    table = Table(show_edge=False)
    table.add_column("weights", no_wrap=True)  # to be copied from here
    for column in ("published", "licence", *(("model", "MB", "from") if long else ())):
        table.add_column(column, overflow="fold")
    for name in names:
        row = public.table()[name]
        figure = f"{row.of} {row.metric}" if row.metric else ""
        figure += f" ({row.protocol})" if row.metric and long else ""
        more = (row.model, f"{row.megabytes or ''}", row.place) if long else ()
        marked = f"{name} *" if row.default else name
        table.add_row(*map(escape, (marked, figure, row.licence or "none found", *more)))
    Console().print(table)
    by_hand = sum(bool(public.table()[name].page) for name in names)
    print("* what pretrained=True takes for the model")
    if by_hand:
        print(f"{by_hand} of {len(names)} are fetched by hand; asking for one says from where")


def _print_options(name: str) -> None:
    table = Table(name, "type", "default", "meaning", show_edge=False)
    for option, about in model_options(name).items():
        needed = about.default is inspect.Parameter.empty
        default = "needed" if needed else _written(about.default)
        table.add_row(option, escape(about.type), escape(default), escape(about.meaning))
    Console().print(table)


def _written(default: Any) -> str:
    return default.__name__ if inspect.isclass(default) else repr(default)


def _in_short(models: Sequence[Model]) -> list[str]:
    """Return the names of a family, with what may stand before and behind them in brackets."""
    inserted = [m for m in models if m.block and m.name.endswith(f"_{m.block}")]
    plain = [m.name for m in models if m not in inserted]
    blocks = {name: [m.block for m in inserted if m.name == f"{name}_{m.block}"] for name in plain}
    suffix = {name: f"[_{b[0] if len(b) == 1 else 'BLOCK'}]" for name, b in blocks.items() if b}
    alone = [name for name in plain if name[4:] not in plain]
    return ["[ffc_]" * (f"ffc_{n}" in plain) + n + suffix.get(n, "") for n in alone]


def _overview() -> None:
    """Print the families with the names of their backbones, and the blocks that they take."""
    tasks: dict[str, dict[str, list[Model]]] = {}
    for model in MODELS.values():
        family = tasks.setdefault(model.task or "own", {}).setdefault(model.family, [])
        family.append(model)
    console, table = Console(), Table("task", "names", show_edge=False)
    for task, families in sorted(tasks.items()):
        names = [name for models in families.values() for name in _in_short(models)]
        table.add_row(task, escape("  ".join(names)))
    console.print(table)
    console.print("\nBLOCK is one of:")
    table = Table("block", "what it is", "of", show_edge=False, show_header=False)
    for name, row in BLOCKS.items():
        kinds = " and ".join({2: "images", 3: "videos"}[rank] for rank in row.ranks)
        table.add_row(name, row.title, kinds)
    console.print(table)
    console.print(
        f'\nAll {len(MODELS)} names: spectral-flax list "*"; some: "ffc_*", --task pose, '
        "--block bat, --published",
        highlight=False,
    )
