# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax compare``: what models cost on this machine, each measured in its own process."""

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console
from rich.live import Live
from rich.table import Table

from spectral_flax.analysis.measure import SPARING, MeasurementError, measure_alone
from spectral_flax.analysis.profile import profile
from spectral_flax.cli.options import add_options, described, input_shape, model_names, parse_size
from spectral_flax.models.registry import abstract_model, card, get_model

RANKS = {"image": 2, "video": 3}
# The systems of the talk, and the spectral networks since.
SYSTEMS = {
    "image": (
        "resnet50",
        "googlenet",
        "octave_resnet50",
        "resnet50_dcn",
        *(f"resnet50_{block}" for block in ("nl", "a2", "cgnl", "rcca", "glore")),
        *(f"resnet50_{block}" for block in ("srl_fft", "srl_lo", "bat")),
        "ffc_resnet50",
        *(f"resnet50_{block}" for block in ("gfnet", "afno", "fno")),
        "gfnet_tiny",
    ),
    "video": (
        "c2d_resnet50",
        "i3d_resnet50",
        "i3d_inception",
        "s3d",
        "r2plus1d_resnet34",
        "artnet_resnet18",
        "tsm_resnet50",
        "glore_resnet50_lite",
        "octave_i3d_resnet50",
        "i3d_resnet50_a2",
        *(f"c2d_resnet50_{block}" for block in ("nl", "srl_fft", "bat", "bat3d")),
        *(f"i3d_resnet50_{block}" for block in ("nl", "bat")),
        "ffc_c2d_resnet50",
        "ffc_i3d_resnet50_nl",
    ),
}
BATCH = {"image": 4, "video": 1}
WORKS = {"inference": "forward", "training": "step"}
Row = dict[str, Any]


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser("compare", help="measure models side by side on this machine",
                                 description=described(__doc__))  # fmt: skip
    parser.add_argument("--task", choices=sorted(RANKS), default="image", help="what models see")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="names, or globs of them; "
                        "by default the systems of the talk")  # fmt: skip
    parser.add_argument("--size", type=parse_size, metavar="N|HxW",
                        help="of the input; by default each model's own")  # fmt: skip
    parser.add_argument("--frames", type=int, help="of the clips of videos")
    parser.add_argument("--batch", type=int,
                        help="examples at a time; by default 4 images or 1 clip")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3.0,
                        help="to measure each, once it is compiled (default: 3)")  # fmt: skip
    parser.add_argument("--no-time", action="store_true", help="count, and measure nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the models one after the other; 1 if one of them could not be."""
    batch = BATCH[args.task] if args.batch is None else args.batch
    for name, value in (("--batch", batch), ("--frames", args.frames), ("--seconds", args.seconds)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} {value} is not a positive number")
    names = _names(args.models, args.task) if args.models else SYSTEMS[args.task]
    os.environ.setdefault(*SPARING)
    console, rows = Console(highlight=False), []
    with Live(console=Console(stderr=True, highlight=False), auto_refresh=False) as live:
        for name in names:
            live.update(f"{len(rows)} of {len(names)} done; {name} is measured", refresh=True)
            rows.append(_row(name, args, batch))
        live.update("", refresh=True)
    if args.json:
        print(json.dumps({"machine": _machine(batch), "models": rows}, indent=2))
    else:
        dtype = dict(args.options).get("dtype", "float32")
        _print_table(console, rows, batch, args.no_time, dtype)
    return 1 if any("error" in row for row in rows) else 0


def _names(words: Sequence[str], task: str) -> list[str]:
    """Return the models that names and globs name; of globs those of the task.

    Raises:
      ValueError: a name is of another task, or a glob has none of this.
    """
    names = model_names(words)
    fit = [name for name in names if get_model(name).rank == RANKS[task]]
    for name in names:
        if name in words and name not in fit:
            raise ValueError(f"{name} is no model of {task}s; see --task")
    if not fit:
        raise ValueError(f"no model of {task}s matches {' '.join(words)}; see --task")
    return fit


def _row(name: str, args: argparse.Namespace, batch: int) -> Row:
    about, entry = card(name), get_model(name)
    published = re.search(r"top-1 ([\d.]+)", about.published)
    row: Row = {
        "model": name,
        "input": None,
        "published": float(published[1]) if published else None,
    }
    try:
        options = dict(args.options)
        shape = input_shape(about, args.size, args.frames, options.get("in_features", 3))
        if "input_size" in entry.options and (args.size or args.frames):
            options.setdefault("input_size", shape[1:-1])
        row["input"] = shape[1:-1]
        counted = profile(abstract_model(name, **options), shape).total
        row |= {"parameters": counted.parameters, "multiply_adds": counted.multiply_adds}
        for work in WORKS if not args.no_time else ():
            given = dict(work=work, options=options, seconds=args.seconds, plugins=args.plugins)
            measured = measure_alone(name, (batch, *shape[1:]), **given)
            row[work] = dataclasses.asdict(measured)
    except (MeasurementError, ValueError, TypeError) as error:
        row["error"] = (str(error).splitlines() or [type(error).__name__])[0]
    return row


def _machine(batch: int) -> dict[str, Any]:
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "batch": batch,
    }


def _print_table(
    console: Console, rows: list[Row], batch: int, counts_only: bool, dtype: str
) -> None:
    works = {} if counts_only else WORKS
    table = Table(show_edge=False)
    table.add_column("model", no_wrap=True)
    columns = ["params\nM", "mult-adds\nG"]
    columns += [f"{word}\n{unit}" for unit in ("ms", "MiB") for word in works.values()]
    for column in (*columns, "top-1\n%"):
        table.add_column(column, justify="right")
    for row in rows:
        counts = [f"{row[key] / unit:.2f}" if key in row else "" for key, unit in
                  (("parameters", 1e6), ("multiply_adds", 1e9))]  # fmt: skip
        times = [f"{1e3 * row[w]['seconds'] / batch:.1f}" if w in row else "" for w in works]
        memory = [f"{row[w]['memory'] / 2**20:.0f}" if w in row else "" for w in works]
        published = f"{row['published']:g}" if row["published"] else ""
        table.add_row(row["model"], *counts, *times, *memory, published)
    console.print(table)
    for row in rows:
        if "error" in row:
            console.print(f"{row['model']}: {row['error']}", markup=False)
    inputs = {row["input"]: [] for row in rows if row["input"]}
    for row in rows:
        if row["input"]:
            inputs[row["input"]].append(row["model"])
    for size, names in inputs.items():
        of = "" if len(inputs) == 1 else f" of {', '.join(names)}"
        console.print(f"Input{of}: {'x'.join(map(str, size))}.")
    about = _machine(batch)
    console.print("top-1: the paper's, of ImageNet or Kinetics-400; not measured here.")
    if not counts_only:
        planned = "what the program plans" if about["platform"] == "cpu" else "the device's peak"
        console.print(
            f"{about['device']}, {about['cores']} cores, jax {about['jax']}, {dtype}. Times are of "
            f"one example in batches of {batch}: forward, and a training step (gradients, SGD with "
            f"momentum). Memory is of the batch: {planned}."
        )
