# SPDX-License-Identifier: Apache-2.0
"""The part of ``spectral-flax predict`` that concerns poses: joints of people, drawn and listed."""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from spectral_flax.cli.options import complain, exit_code
from spectral_flax.files import local_path
from spectral_flax.inference.image_output import check_output, check_output_folder, save_image
from spectral_flax.inference.images import pillow, read_image
from spectral_flax.inference.pose import draw_skeletons, predict_pose
from spectral_flax.models.pose import PoseResNet
from spectral_flax.models.registry import Card


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only pose models need."""
    parser.add_argument(
        "--box", dest="boxes", metavar="X,Y,W,H", type=_box, action="append",
        help="pose models: a person's box in pixels, part of it in the image; may be repeated; "
        "else the whole image is one",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT",
        help="pose models: file for the picture with the skeletons; a folder for several images",
    )  # fmt: skip


def targets(args: argparse.Namespace) -> dict[str, pathlib.Path]:
    """Return which picture is written for each image, having checked that it can be."""
    output = local_path(args.output, "output")
    if len(args.images) == 1 and not output.is_dir():
        check_output(args.output, overwrite=args.overwrite)
        return {args.images[0]: output}
    found: dict[pathlib.Path, str] = {}
    for image in args.images:
        path = output / f"{pathlib.Path(image).stem}.png"
        if path in found:
            raise ValueError(f"{found[path]!r} and {image!r} would both be drawn to {str(path)!r}")
        found[path] = image
    check_output_folder(args.output, found, overwrite=args.overwrite)
    return {image: path for path, image in found.items()}


def run(
    args: argparse.Namespace,
    model: PoseResNet,
    about: Card,
    options: Mapping[str, Any],
    targets: Mapping[str, pathlib.Path],
) -> int:
    """Draw the skeletons found in each image, or print the joints; 1 or 2 if not of all."""
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
        triples = np.concatenate([joints, scores[..., None]], -1).round(4)
        found[path] = triples.tolist()
        if path in targets:
            out = targets[path]
            out.parent.mkdir(parents=True, exist_ok=True)
            drawn = pillow().fromarray(draw_skeletons(image, joints, scores))
            save_image(drawn, out, overwrite=args.overwrite)
            if not args.json:
                print(f"{out}: {_summary(scores)}")
    if args.json:
        print(json.dumps(found, indent=2))
    return exit_code(len(found), len(args.images))


def check_unused(args: argparse.Namespace, name: str) -> None:
    """Refuse the options of pose models for the model ``name``, which is none."""
    for option, value in (("--box", args.boxes), ("-o", args.output)):
        if value is not None:
            raise ValueError(f"{option} is for pose models; {name} names classes")


def _summary(scores: np.ndarray) -> str:
    seen = (scores > 0.2).sum(-1)
    return ", ".join(f"{n} of {scores.shape[-1]} joints" for n in seen)


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
        if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            raise ValueError
    except ValueError:
        message = f"{text!r} is not a box X,Y,W,H: four finite numbers, the last two positive"
        raise argparse.ArgumentTypeError(message) from None
    return box
