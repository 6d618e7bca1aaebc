# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax predict``: classes of images and videos, masks, or skeletons of people."""

import argparse
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from spectral_flax.checkpoints.public.table import default_row
from spectral_flax.cli.options import (
    add_model,
    add_overwrite,
    complain,
    exit_code,
    load_model,
    parse_size,
)
from spectral_flax.cli.results import expand, print_csv, print_json, print_shares
from spectral_flax.inference.classification import best_classes, classify, read_labels
from spectral_flax.inference.image_output import output_files, save_image
from spectral_flax.inference.images import pillow, read_image
from spectral_flax.inference.pose import VISIBLE, draw_skeletons, predict_pose
from spectral_flax.inference.prediction import predict
from spectral_flax.inference.preparation import is_video, prepare, prepare_views, with_size
from spectral_flax.inference.segmentation import colour_mask, overlay
from spectral_flax.models.record import ModelRecord, Preprocessing

DESCRIPTION = """Say what is in images and videos, as the task of the model is: the most probable
classes, a mask, or the skeletons of people. Size, scaling and names of classes are those that
travel with the weights; published files take them from the model's card."""


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser(
        "predict", help="classify images and videos, find masks or poses", description=DESCRIPTION
    )
    parser.add_argument(
        "images", nargs="+", metavar="PATH", help="images, videos, folders of them, or globs"
    )
    parser.add_argument(
        "--weights", metavar="FILE",
        help="a run, a name of spectral-flax list --pretrained, or as the input of spectral-flax "
        "convert; without it the model's own public weights",
    )  # fmt: skip
    add_model(parser)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON instead of tables")
    shape.add_argument("--csv", action="store_true", help="print CSV instead of tables")
    parser.add_argument("--size", type=parse_size, help="height and width, such as 224 or 256x192")
    parser.add_argument("--mean", type=float, nargs="+", help="mean of each channel, in [0, 1]")
    parser.add_argument("--std", type=float, nargs="+", help="deviation of each channel, likewise")
    parser.add_argument(
        "-o", "--output", metavar="OUT",
        help="file for the mask, or for the picture with the skeletons; a folder for several",
    )  # fmt: skip
    add_overwrite(parser)
    classes = parser.add_argument_group("models that name classes")
    classes.add_argument(
        "--labels", metavar="FILE", help="names of the classes: one a line, or JSON"
    )
    classes.add_argument("--top", type=int, default=5, metavar="N", help="classes to show (5)")
    classes.add_argument("--clips", type=int, default=1, help="clips of a video to average (1)")
    classes.add_argument(
        "--crops", type=int, default=1, choices=(1, 3), help="crops of each clip (1)"
    )
    masks = parser.add_argument_group("models that give masks")
    masks.add_argument(
        "--overlay", action="store_true", help="write the image under the mask, not the mask alone"
    )
    poses = parser.add_argument_group("models that find poses")
    poses.add_argument(
        "--box", dest="boxes", metavar="X,Y,W,H", type=_box, action="append",
        help="a person's box in pixels, part of it in the image; may be repeated; else the whole "
        "image is one",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is in each image; return 1 if some could not be read, 2 if none."""
    if args.top < 1:
        raise ValueError(f"--top {args.top} is not a positive number")
    pillow()  # or say what to install
    args.images = expand(args.images)
    labels = read_labels(args.labels) if args.labels is not None else None
    targets = {}
    if args.output is not None:
        targets = output_files(args.images, args.output, overwrite=args.overwrite)
    if args.weights is None and args.model is None:
        raise ValueError("give --weights, or --model for its public weights")
    source = default_row(args.model).name if args.weights is None else args.weights
    model, _ = load_model(args, source)
    record = model.record
    about = with_size(model, args.size, args.mean, args.std)
    if len(about.input_size) == 2:  # a folder may hold both
        args.images = [path for path in args.images if not is_video(path)] or args.images
    _check(args, record)
    match record.task:
        case "pose":
            return _find_poses(args, model, about, targets)
        case "segmentation":
            return _find_masks(args, model, about, targets, labels)
        case "inpainting":
            raise ValueError(f"{record.model} fills in images: spectral-flax inpaint IMAGE MASK")
    return _classify(args, model, about, labels)


def _check(args: argparse.Namespace, record: ModelRecord) -> None:
    """Refuse what the model's task has no use for."""
    told = {"pose": "finds poses", "segmentation": "gives masks"}
    given = {
        "--box": (args.boxes is not None, ("pose",), "pose models"),
        "-o": (args.output is not None, tuple(told), "models of poses and masks"),
        "--overlay": (args.overlay, ("segmentation",), "models of masks"),
    }
    for option, (is_given, tasks, others) in given.items():
        if is_given and record.task not in tasks:
            what = told.get(record.task, "names classes")
            raise ValueError(f"{option} is for {others}; {record.model} {what}")


def _read(args: argparse.Namespace, reader: Callable[[str], Any]) -> dict[str, Any]:
    """Return what ``reader`` makes of each path; what it cannot read is said and left out."""
    found = {}
    for path in args.images:
        try:
            found[path] = reader(path)
        except (ValueError, OSError) as error:  # the others are still of interest
            complain(error)
    return found


def _classify(
    args: argparse.Namespace, model: nnx.Module, about: Preprocessing, labels: list[str] | None
) -> int:
    """Print the most probable classes of each image or video."""
    record = model.record
    views = 1
    if len(about.input_size) == 3:
        views = args.clips * args.crops
        how = dict(clips=args.clips, crops=args.crops)
        inputs = _read(args, lambda path: prepare_views(path, about, **how))
    elif (args.clips, args.crops) != (1, 1):
        raise ValueError(f"--clips and --crops are for videos; {record.model} takes images")
    else:
        inputs = _read(args, lambda path: prepare([path], about))
    found = {}
    if inputs:
        probabilities = classify(model, np.concatenate(list(inputs.values())), views=views)
        count = probabilities.shape[-1]
        if labels is not None and len(labels) != count:
            raise ValueError(
                f"{args.labels} names {len(labels)} classes; {record.model} has {count}"
            )
        names = labels if labels is not None else record.class_names or None
        best = best_classes(probabilities, labels=names, top=args.top)
        found = dict(zip(inputs, best, strict=True))
    if args.json:
        print_json({path: [one._asdict() for one in best] for path, best in found.items()})
    elif args.csv:
        rows = ((p, i, *one) for p, best in found.items() for i, one in enumerate(best, 1))
        print_csv(("path", "rank", "label", "probability"), rows)
    else:
        print_shares(found)
    return exit_code(len(inputs), len(args.images))


def _find_masks(
    args: argparse.Namespace,
    model: nnx.Module,
    about: Preprocessing,
    targets: Mapping[str, pathlib.Path],
    labels: list[str] | None,
) -> int:
    """Write the mask of each image, and print the share of each class."""
    names = labels if labels is not None else list(model.record.class_names)

    def shares(path: str) -> list[tuple[str, float]]:
        image = np.asarray(read_image(path, alpha="white"))
        mask = predict(model, image, about=about)
        if path in targets:
            picture = overlay(image, mask) if args.overlay else colour_mask(mask)
            _write(picture, targets[path], args.overwrite)
        values, counts = np.unique(mask, return_counts=True)
        told = [names[v] if v < len(names) else f"class {v}" for v in values]
        return list(zip(told, (counts / mask.size).tolist(), strict=True))

    found = _read(args, shares)
    if args.json:
        print_json({path: dict(rows) for path, rows in found.items()})
    elif args.csv:
        rows = ((path, *row) for path, rows in found.items() for row in rows)
        print_csv(("path", "label", "share"), rows)
    else:
        print_shares(found)
    return exit_code(len(found), len(args.images))


def _find_poses(
    args: argparse.Namespace,
    model: nnx.Module,
    about: Preprocessing,
    targets: Mapping[str, pathlib.Path],
) -> int:
    """Draw the skeletons found in each image, or print the joints."""
    printed = args.json or args.csv
    if args.output is None and not printed:
        raise ValueError("a pose model needs -o OUT for its pictures, or --json, or --csv")
    if args.boxes and len(args.images) > 1:
        raise ValueError(f"--box is of one image; {len(args.images)} are given")
    if args.labels is not None:
        raise ValueError(f"--labels {args.labels}: a pose model has joints, not classes")
    found = {}
    images = _read(args, lambda path: np.asarray(read_image(path, alpha="white")))
    for path, image in images.items():
        joints, scores = predict_pose(model, image, args.boxes, about=about)
        found[path] = np.concatenate([joints, scores[..., None]], -1).round(4).tolist()
        if path in targets:
            _write(pillow().fromarray(draw_skeletons(image, joints, scores)), targets[path],
                   args.overwrite)  # fmt: skip
            if not printed:
                seen = (scores > VISIBLE).sum(-1)
                told = ", ".join(f"{n} of {scores.shape[-1]} joints" for n in seen)
                print(f"{targets[path]}: {told}")
    if args.json:
        print_json(found)
    elif args.csv:
        people = ((p, i, person) for p, all_ in found.items() for i, person in enumerate(all_))
        rows = ((p, i, j, *joint) for p, i, person in people for j, joint in enumerate(person))
        print_csv(("path", "person", "joint", "x", "y", "score"), rows)
    return exit_code(len(found), len(args.images))


def _write(picture, out: pathlib.Path, overwrite: bool) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    save_image(picture, out, overwrite=overwrite)


def _box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
        if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            raise ValueError
    except ValueError:
        message = f"{text!r} is not a box X,Y,W,H: four finite numbers, the last two positive"
        raise argparse.ArgumentTypeError(message) from None
    return box
