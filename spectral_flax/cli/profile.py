# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax profile``: count parameters, multiply-adds and memory without running a model."""

import argparse
import json

from flax import nnx
from rich.console import Console
from rich.table import Table

from spectral_flax.analysis.profile import Cost, Profile, profile
from spectral_flax.analysis.published import TABLES, Convention, Row, agrees, recount
from spectral_flax.analysis.rows_over_devices import profile_over_devices, simulate_devices
from spectral_flax.cli.options import add_options, described, input_shape, model_names, parse_size
from spectral_flax.memory import shown_memory
from spectral_flax.models.registry import abstract_model, card

TOLERANCE = 0.02  # of multiply-adds against a published figure


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser("profile", help="count parameters and multiply-adds",
                                 description=described(__doc__))  # fmt: skip
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="models, as in spectral-flax list, or globs of them",
    )
    parser.add_argument("--size", type=parse_size, metavar="N|HxW",
                        help="of the input; by default the model's own")  # fmt: skip
    parser.add_argument("--frames", type=int, help="of the input of a video model")
    parser.add_argument("--layers", nargs="?", type=int, const=99, metavar="DEPTH",
                        help="a line a layer, or for parts of names to this depth")  # fmt: skip
    parser.add_argument("--devices", type=int, metavar="N",
                        help="that share the rows of an image: what each has in memory and gets "
                        "from others, as compiled for simulated ones")  # fmt: skip
    parser.add_argument("--table", choices=sorted(TABLES),
                        help="a paper's table: our counts beside the published ones")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the costs of models, or a published table."""
    if bool(args.table) == bool(args.names):
        raise ValueError("give the names of models, or --table and none")
    if args.frames is not None and args.frames < 1:
        raise ValueError(f"--frames {args.frames} is not a positive number")
    if args.devices is not None and (args.table or args.layers is not None):
        raise ValueError("--devices is of whole models: give it without --table and --layers")
    if args.table:
        _print_published(args.table, args.json)
        return
    if args.devices is not None:
        _print_devices(args)
        return
    found = {name: _profile(name, args) for name in model_names(args.names)}
    if args.json:
        print(json.dumps({name: _as_json(p, args.layers) for name, p in found.items()}, indent=2))
        return
    if args.layers is None:
        table = _cost_table("model")
        for name, counted in found.items():
            _add_cost(table, name, counted.total)
        Console().print(table)
    for name, counted in found.items() if args.layers is not None else ():
        table = _cost_table(name)
        for path, cost in counted.grouped(args.layers).items():
            _add_cost(table, path or "(the model itself)", cost)
        table.add_section()
        _add_cost(table, "total", counted.total)
        Console().print(table)


def _profile(name: str, args: argparse.Namespace) -> Profile:
    return profile(*_model_and_shape(name, args))


def _model_and_shape(name: str, args: argparse.Namespace) -> tuple[nnx.Module, tuple[int, ...]]:
    model = abstract_model(name, **dict(args.options))
    channels = getattr(model, "in_features", 3)
    return model, input_shape(card(name), args.size, args.frames, channels)


def _print_devices(args: argparse.Namespace) -> None:
    """Print what each of several devices has in memory and gets from the others."""
    if args.devices < 1:
        raise ValueError(f"--devices {args.devices} is not a positive number")
    simulate_devices(args.devices)  # before anything else uses JAX
    jobs = {name: _model_and_shape(name, args) for name in model_names(args.names)}
    found = {name: profile_over_devices(*job, args.devices) for name, job in jobs.items()}
    if args.json:
        as_json = {
            name: vars(cost) | {"moved": {kind: c._asdict() for kind, c in cost.moved.items()}}
            for name, cost in found.items()
        }
        print(json.dumps(as_json, indent=2))
        return
    table = Table(show_edge=False)
    table.add_column("on each device", no_wrap=True)
    for column in ("arguments", "temporary", "result", "in all"):
        table.add_column(column, justify="right")
    for name, cost in found.items():
        sizes = cost.arguments, cost.temporary, cost.result, cost.memory
        table.add_row(name, *map(shown_memory, sizes))
    moved = Table("received by each", show_edge=False)
    for column in ("operation", "times", "bytes"):
        moved.add_column(column, justify="right" if column != "operation" else "left")
    for name, cost in found.items():
        for kind, (count, size) in cost.moved.items():
            moved.add_row(name, kind, str(count), f"{size:,}")
    console = Console(highlight=False)
    console.print(table, "", moved, "", sep="\n")
    console.print(
        f"One forward pass of an image in float32 whose rows {args.devices} devices share, as "
        "compiled for that many simulated ones; nothing was run. Operations in a loop count as "
        "often as it runs."
    )
    uneven = [name for name, (_, shape) in jobs.items() if shape[-3] % args.devices]
    if uneven:
        console.print(
            f"{', '.join(uneven)}: {args.devices} devices do not divide the rows of the image; it "
            "and the result are whole on each of them."
        )


def _as_json(counted: Profile, depth: int | None) -> dict:
    if depth is None:
        return _numbers(counted.total)
    layers = {path: _numbers(cost) for path, cost in counted.grouped(depth).items()}
    return {"total": _numbers(counted.total), "layers": layers}


def _numbers(cost: Cost) -> dict[str, int]:
    return vars(cost) | {"multiply_adds": cost.multiply_adds}


def _cost_table(first: str) -> Table:
    table = Table(show_edge=False)
    table.add_column(first, no_wrap=True)
    columns = ("params M", "mult-adds G", "attention G", "transforms G", "activ. MB")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _add_cost(table: Table, label: str, cost: Cost) -> None:
    counts = (cost.multiply_adds / 1e9, cost.attention / 1e9, cost.transforms / 1e9)
    table.add_row(label, f"{cost.parameters / 1e6:.3f}", *(f"{n:.3f}" for n in counts),
                  f"{cost.activations / 1e6:.1f}")  # fmt: skip


def _print_published(name: str, as_json: bool) -> None:
    convention, rows = TABLES[name]
    if as_json:
        print(json.dumps([_row_as_json(row, convention) for row in rows], indent=2))
        return
    table, notes = Table(show_edge=False), {}
    table.add_column("row", no_wrap=True)
    for column in ("GFLOPs", "paper", "differ", "params M", "paper", "differ"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        found = recount(row, convention)
        note = row.note
        if found is None:
            table.add_row(row.label, "", row.gflops, "", "", row.parameters, "")
            note = f"there is no model {row.model}" if row.model else note
        else:
            gflops = _compared(found.gflops, row.gflops, TOLERANCE)
            table.add_row(row.label, *gflops, *_compared(found.parameters, row.parameters, 0.0))
        if note:
            notes.setdefault(note, []).append(row.label)
    console = Console(highlight=False)
    console.print(table)
    unit = "2^30" if convention.unit == 2**30 else "10^9"
    console.print(
        f"G is {unit}; each product in non-local attention counts {convention.attention}, a "
        f"Fourier transform N log2 N. Red: GFLOPs differ by more than {TOLERANCE:.0%}, or "
        "parameters by more than a unit of the last printed digit.",
        *(f"{', '.join(labels)}: {note}" for note, labels in notes.items()),
        sep="\n",
    )


def _compared(ours: float, printed: str, tolerance: float) -> tuple[str, str, str]:
    if not printed:
        return f"{ours:.3f}", "", ""
    colour = "green" if agrees(ours, printed, tolerance) else "red"
    percent = 100 * (ours / float(printed) - 1)
    return f"{ours:.3f}", printed, f"[{colour}]{percent:+.1f} %[/]"


def _row_as_json(row: Row, convention: Convention) -> dict:
    found = recount(row, convention)
    return {
        "label": row.label,
        "model": row.model or None,
        "gflops": found and found.gflops,
        "published_gflops": float(row.gflops) if row.gflops else None,
        "parameters": found and found.parameters,
        "published_parameters": float(row.parameters) if row.parameters else None,
        "note": row.note,
    }
