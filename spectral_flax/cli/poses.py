# SPDX-License-Identifier: Apache-2.0
"""The part of ``spectral-flax predict`` that concerns poses: joints of people, drawn and listed."""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from spectral_flax.models.pose import PoseResNet
from spectral_flax.models.registry import Card
from spectral_flax.pose import draw_skeletons, predict_pose


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only pose models need."""
    parser.add_argument(
        "--box", dest="boxes", metavar="X,Y,W,H", type=_box, action="append",
        help="pose models: a person's box in pixels, may be repeated; else the whole image is one",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="OUT",
        help="pose models: file for the picture with the skeletons; a folder for several images",
    )  # fmt: skip


def run(
    args: argparse.Namespace, model: PoseResNet, about: Card, options: Mapping[str, Any]
) -> int:
    """Draw the skeletons found in each image, or print the joints; 1 if one could not be read."""
    from PIL import Image

    from spectral_flax.cli.images import read_image

    if args.output is None and not args.json:
        raise ValueError("a pose model needs -o OUT for its pictures, or --json")
    if args.boxes and len(args.images) > 1:
        raise ValueError(f"--box is of one image; {len(args.images)} are given")
    if args.labels is not None:
        raise ValueError(f"--labels {args.labels}: a pose model has joints, not classes")
    settings = dict(size=tuple(options.get("input_size", about.input_size)), about=about)
    found, faults = {}, 0
    for path in args.images:
        try:
            image = np.asarray(read_image(path))
        except (ValueError, OSError) as error:  # the others are still of interest
            print(f"spectral-flax predict: {error}", file=sys.stderr)
            faults += 1
            continue
        joints, scores = predict_pose(model, image, args.boxes, **settings)
        triples = np.concatenate([joints, scores[..., None]], -1).round(4)
        found[path] = triples.tolist()
        if args.output is not None:
            out = _target(args.output, path, len(args.images))
            Image.fromarray(draw_skeletons(image, joints, scores)).save(out)
            if not args.json:
                print(f"{out}: {_summary(scores)}")
    if args.json:
        print(json.dumps(found, indent=2))
    return 1 if faults else 0


def check_unused(args: argparse.Namespace, name: str) -> None:
    """Refuse the options of pose models for the model ``name``, which is none."""
    for option, value in (("--box", args.boxes), ("-o", args.output)):
        if value:
            raise ValueError(f"{option} is for pose models; {name} names classes")


def _target(output: str, image: str, images: int) -> pathlib.Path:
    path = pathlib.Path(output)
    if images == 1 and not path.is_dir():
        return path
    path.mkdir(parents=True, exist_ok=True)
    return path / f"{pathlib.Path(image).stem}.png"


def _summary(scores: np.ndarray) -> str:
    seen = (scores > 0.2).sum(-1)
    return ", ".join(f"{n} of {scores.shape[-1]} joints" for n in seen)


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
        if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            raise ValueError
    except ValueError:
        message = f"{text!r} is not a box X,Y,W,H with positive width and height"
        raise argparse.ArgumentTypeError(message) from None
    return box
