# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax predict``: classify images, or find the skeletons of people in them."""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectral_flax.cli.options import add_model, add_overwrite, complain, exit_code, load_model
from spectral_flax.inference.classification import (
    Class,
    best_classes,
    classify,
    prepare,
    read_labels,
)
from spectral_flax.inference.image_output import output_files, save_image
from spectral_flax.inference.images import pillow, read_image
from spectral_flax.inference.pose import VISIBLE, draw_skeletons, predict_pose
from spectral_flax.models.pose import PoseResNet
from spectral_flax.models.record import Card
from spectral_flax.models.registry import card


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser(
        "predict", help="classify images, or find poses", description=__doc__
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="as the input of spectral-flax convert"
    )
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    classes = parser.add_argument_group("models that name classes")
    classes.add_argument(
        "--labels", metavar="FILE", help="names of the classes: one a line, or JSON"
    )
    classes.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (5)")
    poses = parser.add_argument_group("models that find poses")
    poses.add_argument(
        "--box", dest="boxes", metavar="X,Y,W,H", type=_box, action="append",
        help="a person's box in pixels, part of it in the image; may be repeated; else the whole "
        "image is one",
    )  # fmt: skip
    poses.add_argument(
        "-o", "--output", metavar="OUT",
        help="file for the picture with the skeletons; a folder for several images",
    )  # fmt: skip
    add_overwrite(poses)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is in each image; return 1 if some could not be read, 2 if none."""
    if args.top < 1:
        raise ValueError(f"--top {args.top} is not a positive number")
    pillow()  # or say what to install
    args.images = list(dict.fromkeys(args.images))
    labels = read_labels(args.labels) if args.labels is not None else None
    if args.model is not None:
        _check_takes_images(args.model)
    targets = {}
    if args.output is not None:
        targets = output_files(args.images, args.output, overwrite=args.overwrite)
    model, _ = load_model(args, args.weights)
    name, options = model.record.model, model.record.options
    about = _check_takes_images(name)
    if isinstance(model, PoseResNet):
        return _find_poses(args, model, about, options, targets)
    for option, value in (("--box", args.boxes), ("-o", args.output)):
        if value is not None:
            raise ValueError(f"{option} is for pose models; {name} names classes")
    inputs = {}
    for path in args.images:
        try:
            inputs[path] = prepare(path, about)
        except (ValueError, OSError) as error:  # the others are still of interest
            complain(error)
    if inputs:
        probabilities = classify(model, np.stack(list(inputs.values())))
        count = probabilities.shape[-1]
        if labels is not None and len(labels) != count:
            raise ValueError(f"{args.labels} names {len(labels)} classes; {name} has {count}")
        found = best_classes(probabilities, labels=labels, top=args.top)
        _print(dict(zip(inputs, found, strict=True)), as_json=args.json)
    return exit_code(len(inputs), len(args.images))


def _check_takes_images(name: str) -> Card:
    about = card(name)
    if len(about.input_size) != 2:
        raise ValueError(f"{name} takes clips of {about.input_size[0]} frames, not images")
    return about


def _print(found: Mapping[str, Sequence[Class]], *, as_json: bool = False) -> None:
    if as_json:
        rows = {path: [one._asdict() for one in best] for path, best in found.items()}
        print(json.dumps(rows, indent=2))
        return
    console = Console()
    for path, best in found.items():
        table = Table(title=Text(path), title_justify="left", show_header=False, box=None)
        for label, share in best:
            table.add_row(Text(label), Bar(1, 0, share, width=30), f"{share:.1%}")
        console.print(table)


def _find_poses(
    args: argparse.Namespace,
    model: PoseResNet,
    about: Card,
    options: Mapping[str, Any],
    targets: Mapping[str, pathlib.Path],
) -> int:
    """Draw the skeletons found in each image, or print the joints."""
    if args.output is None and not args.json:
        raise ValueError("a pose model needs -o OUT for its pictures, or --json")
    if args.boxes and len(args.images) > 1:
        raise ValueError(f"--box is of one image; {len(args.images)} are given")
    if args.labels is not None:
        raise ValueError(f"--labels {args.labels}: a pose model has joints, not classes")
    settings = dict(size=tuple(options.get("input_size", about.input_size)), about=about)
    found = {}
    for path in args.images:
        try:
            image = np.asarray(read_image(path, alpha="white"))
        except (ValueError, OSError) as error:  # the others are still of interest
            complain(error)
            continue
        joints, scores = predict_pose(model, image, args.boxes, **settings)
        found[path] = np.concatenate([joints, scores[..., None]], -1).round(4).tolist()
        if path in targets:
            out = targets[path]
            out.parent.mkdir(parents=True, exist_ok=True)
            drawn = pillow().fromarray(draw_skeletons(image, joints, scores))
            save_image(drawn, out, overwrite=args.overwrite)
            if not args.json:
                seen = (scores > VISIBLE).sum(-1)
                told = ", ".join(f"{n} of {scores.shape[-1]} joints" for n in seen)
                print(f"{out}: {told}")
    if args.json:
        print(json.dumps(found, indent=2))
    return exit_code(len(found), len(args.images))


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
        if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            raise ValueError
    except ValueError:
        message = f"{text!r} is not a box X,Y,W,H: four finite numbers, the last two positive"
        raise argparse.ArgumentTypeError(message) from None
    return box
