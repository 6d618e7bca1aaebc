# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax predict``: the best classes of images, or the skeletons of people in them."""

import argparse
import functools
import json
import os
import pathlib

import jax
import numpy as np
from flax import nnx
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectral_flax.checkpoints.store import build, read_weights
from spectral_flax.cli import poses
from spectral_flax.cli.images import prepare
from spectral_flax.cli.options import add_options, add_overwrite, complain, exit_code
from spectral_flax.inference.images import pillow, read_image
from spectral_flax.kernels.cpu import compiler_options
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.models.pose import PoseResNet
from spectral_flax.models.registry import Card, card

BATCH = 16


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser(
        "predict", help="classify images, or find poses", description=__doc__
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="as the input of spectral-flax convert"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="as in spectral-flax list; files of this library know theirs",
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="names of the classes: one a line, or JSON"
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (5)")
    parser.add_argument("--entry", help="which set of weights, where a PyTorch file has several")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    poses.add_options(parser)
    add_overwrite(parser)
    add_options(parser)
    parser.set_defaults(run=run)  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print the best classes of each image; return 1 if some could not be read, 2 if none."""
    if args.top < 1:
        raise ValueError(f"--top {args.top} is not a positive number")
    pillow()  # or say what to install
    args.images = list(dict.fromkeys(args.images))
    labels = read_labels(args.labels) if args.labels is not None else None
    if args.model is not None:
        _check_takes_images(args.model)
    targets = poses.targets(args) if args.output is not None else {}
    weights = read_weights(args.weights, entry=args.entry)
    model, name, options = build(weights, args.model, dict(args.options), source=args.weights)
    about = _check_takes_images(name)
    if isinstance(model, PoseResNet):
        return poses.run(args, model, about, options, targets)
    poses.check_unused(args, name)
    inputs = {}
    for path in args.images:
        try:
            inputs[path] = prepare(read_image(path, alpha="white"), about)
        except (ValueError, OSError) as error:  # the others are still of interest
            complain(error)
    if inputs:
        probabilities = classify(model, np.stack(list(inputs.values())))
        if labels is None:
            labels = [f"class {i}" for i in range(probabilities.shape[-1])]
        if len(labels) != probabilities.shape[-1]:
            raise ValueError(
                f"{args.labels} names {len(labels)} classes; {name} has {probabilities.shape[-1]}"
            )
        best = {
            path: _best(p, labels, args.top) for path, p in zip(inputs, probabilities, strict=True)
        }
        print(json.dumps(best, indent=2)) if args.json else _print(best)
    return exit_code(len(inputs), len(args.images))


def _check_takes_images(name: str) -> Card:
    about = card(name)
    if len(about.input_size) != 2:
        raise ValueError(f"{name} takes clips of {about.input_size[0]} frames, not images")
    return about


def read_labels(path: str | os.PathLike) -> list[str]:
    """Return class names from a text file, one a line, or from JSON.

    JSON may be a list, or a mapping of numbers to names (or to a list that ends in the name).
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")  # with or without a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8: {error}") from error
    if not str(path).endswith(".json"):
        return text.rstrip("\n").split("\n") if text.strip() else []
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(i)] for i in range(len(found))]
        return [str(item[-1] if isinstance(item, list) else item) for item in found]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} holds no class names, numbered from 0: {error!r}") from error


def classify(model: nnx.Module, x: np.ndarray) -> np.ndarray:
    """Return class probabilities ``[N, H, W, C] -> [N, classes]`` of a model in evaluation mode."""
    graphdef, state = nnx.split(evaluation_mode(model))

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def forward(state, x):
        y = nnx.merge(graphdef, state)(x)
        if y.ndim != 2:
            raise ValueError(f"the model gives arrays of shape {y.shape}, not classes")
        return jax.nn.softmax(y.astype(np.float32))

    batches = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    return np.concatenate([np.asarray(forward(state, batch)) for batch in batches])


def _best(probabilities: np.ndarray, labels: list[str], count: int) -> list[dict]:
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [{"label": labels[i], "probability": float(probabilities[i])} for i in order]


def _print(best: dict[str, list[dict]]) -> None:
    console = Console()
    for path, classes in best.items():
        table = Table(title=Text(path), title_justify="left", show_header=False, box=None)
        for found in classes:
            share = found["probability"]
            table.add_row(Text(found["label"]), Bar(1, 0, share, width=30), f"{share:.1%}")
        console.print(table)
