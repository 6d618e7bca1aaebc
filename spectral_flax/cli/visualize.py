# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax visualize``: a picture of what a network sees in images or in a clip."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from flax import nnx

from spectral_flax.analysis import figures, panels
from spectral_flax.analysis.attention import attention_maps, blocks_with_maps
from spectral_flax.analysis.map_sizes import map_sizes
from spectral_flax.analysis.paths import local_shares, path_energies
from spectral_flax.analysis.random_networks import open_gates, set_batch_statistics
from spectral_flax.analysis.receptive_field import receptive_field
from spectral_flax.analysis.spectra import (
    check_spectral,
    frequency_responses,
    orthogonal_bases,
    thresholds,
)
from spectral_flax.checkpoints.store import create_model
from spectral_flax.cli.options import add_model, add_overwrite, load_model, parse_size
from spectral_flax.cli.results import expand
from spectral_flax.inference.images import SUFFIXES, pillow, read_image
from spectral_flax.inference.preparation import (
    is_video,
    pixels_of,
    prepare,
    preprocessing_of,
    seen_box,
    with_size,
)
from spectral_flax.inference.video_file import Video
from spectral_flax.models.record import Preprocessing
from spectral_flax.models.registry import get_model

DESCRIPTION = """Draw what a network sees. attention: what the blocks nl, a2 and rcca look at from
one pixel, and each group of bat from all. receptive-field: how much each pixel moves the centre of
a map. spectrum: gain of spectral layers at each frequency, learned thresholds and bases. paths:
local and global channels of fast Fourier convolutions. Without --weights the model is random: its
gates that start at zero are one, and its statistics those of the images."""
_MAPS, _FILTERS = 7, 8
Found = TypeVar("Found")


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser(
        "visualize", help="draw what a network sees in an image", description=DESCRIPTION
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, or one video")
    parser.add_argument("--what", required=True, choices=sorted(_PICTURES))
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="file to write, .png or .svg"
    )
    parser.add_argument(
        "--weights", metavar="FILE",
        help="as in spectral-flax predict; without it they are random",
    )  # fmt: skip
    add_model(parser)
    parser.add_argument("--at", metavar="Y,X", type=_pixel, help="a pixel of the image: the query")
    parser.add_argument("--block", metavar="NAME", help="only this block, such as stage3.2")
    parser.add_argument("--layer", metavar="NAME", help="the map of a receptive field, as stage3")
    parser.add_argument("--size", type=parse_size, help="height and width, such as 224 or 256x192")
    parser.add_argument("--frames", type=int, help="frames of the clip from a video")
    add_overwrite(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Draw one picture and say where it is."""
    panels.matplotlib(), pillow()  # or say what to install
    panels.check_figure(args.output, overwrite=args.overwrite)
    _check_options(args)
    paths = expand(args.images)
    name, about, build = _model(args)
    _check_inputs(args, paths, name, about)
    at = None if args.at is None else _in_input(args.at, paths[0], about)
    inputs = prepare(paths, about)
    pixels = pixels_of(inputs, about)
    model = build()
    if model.record.task == "inpainting":  # a mask that marks nothing
        inputs = np.concatenate([inputs, np.zeros_like(inputs[..., :1])], -1)
    _check_model(args, model, inputs)
    told = f"weights of {args.weights}"
    if args.weights is None:
        opened = open_gates(model)
        set_batch_statistics(model, inputs)
        told = "random weights" + (", zero gates set to one" if opened else "")
    figure = _PICTURES[args.what](args, model, inputs, pixels, at, f"{name}, {told}")
    panels.save_figure(figure, args.output, overwrite=args.overwrite)
    print(args.output)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what the picture that is asked for has no use for."""
    uses = {
        "--at": (args.at, ("attention", "receptive-field")),
        "--block": (args.block, ("attention", "spectrum")),
        "--layer": (args.layer, ("receptive-field",)),
    }
    for option, (value, pictures) in uses.items():
        if value is not None and args.what not in pictures:
            raise ValueError(f"{option} is for --what {' and '.join(pictures)}")


def _model(args: argparse.Namespace) -> tuple[str, Preprocessing, Callable[[], nnx.Module]]:
    """Return a model's name, how its input is made, and what builds it: at random, or read."""
    if args.weights is not None:
        model, _ = load_model(args, args.weights)
        return model.record.model, _resized(args, preprocessing_of(model)), lambda: model
    if args.model is None:
        raise ValueError("give --model, or --weights that know theirs")
    entry, options = get_model(args.model), dict(args.options)
    about = _resized(args, entry.card.preprocessing)
    if (args.size or args.frames) and "input_size" in entry.options:
        options.setdefault("input_size", about.input_size)
    return args.model, about, lambda: create_model(args.model, **options)


def _check_model(args: argparse.Namespace, model: nnx.Module, inputs: np.ndarray) -> None:
    """Refuse a model that has not what is to be seen, before anything is computed."""
    match args.what:
        case "attention":
            blocks_with_maps(model)
        case "spectrum":
            check_spectral(model)
        case "paths":
            local_shares(model)
        case _:
            layers = map_sizes(model, inputs)
            if args.layer not in (None, *layers):
                raise ValueError(f"--layer {args.layer}; expected one of {', '.join(layers)}")


def _resized(args: argparse.Namespace, about: Preprocessing) -> Preprocessing:
    about = with_size(about, args.size)
    if args.frames is None:
        return about
    if len(about.input_size) == 2:
        raise ValueError(f"--frames {args.frames} is for video models; this one takes images")
    return dataclasses.replace(about, input_size=(args.frames, *about.input_size[1:]))


def _check_inputs(
    args: argparse.Namespace, paths: list[str], name: str, about: Preprocessing
) -> None:
    """Refuse clips for a model of images, images for one of clips, and a pixel of several."""
    of_clips = len(about.input_size) == 3
    for path in paths:
        if is_video(path) and not of_clips:
            raise ValueError(f"{path!r} is a video; {name} takes images")
        if of_clips and path.lower().endswith(SUFFIXES):
            raise ValueError(f"{path!r} is an image; {name} takes videos")
    if args.at is not None and len(paths) > 1:
        raise ValueError(f"--at is a pixel of one image; {len(paths)} are given")


def _in_input(at: tuple[int, int], path: str, about: Preprocessing) -> tuple[int, int]:
    """Return the pixel of the model's input that shows a pixel of an image, or video, file."""
    if is_video(path):
        with Video(path) as file:
            width, height = file.frames([0])[0].size
    else:
        width, height = read_image(path, alpha="white").size
    y, x = at
    if not (0 <= y < height and 0 <= x < width):
        raise ValueError(
            f"--at {y},{x} lies outside {path!r}: expected Y in 0 ... {height - 1} "
            f"and X in 0 ... {width - 1}"
        )
    left, top, right, bottom = seen_box(width, height, about)
    if not (top <= y < bottom and left <= x < right):
        raise ValueError(
            f"--at {y},{x} lies outside what the model sees of {path!r}: rows {top:.0f} to "
            f"{bottom - 1:.0f}, columns {left:.0f} to {right - 1:.0f}"
        )
    rows, columns = (height, width) if about.fit == "any" else about.input_size[-2:]
    return int((y - top) / (bottom - top) * rows), int((x - left) / (right - left) * columns)


def _attention(args, model, inputs, pixels, at, title):
    found = attention_maps(model, inputs, at=at, block=args.block)
    blocks = list(found)
    if len(blocks) > 1 and sum(len(maps.weights) for maps in found.values()) > _MAPS:
        found = {blocks[-1]: found[blocks[-1]]}
        print(f"{blocks[-1]} is shown; --block takes another of {', '.join(blocks[:-1])}")
    queried = any(maps.position is not None for maps in found.values())
    what = "what the pixel at + looks at" if queried else "what each group looks at"
    return figures.draw_attention(pixels, found, title=f"{title}: {what}")


def _receptive_field(args, model, inputs, pixels, at, title):
    sizes = map_sizes(model, inputs)
    layer = list(sizes)[-1] if args.layer is None else args.layer
    position = centre = None
    if at is not None:
        frames, size = sizes[layer][:-2], sizes[layer][-2:]
        shape = inputs.shape[-3:-1]
        # Position p of a strided convolution has its centre at p times the stride.
        place = [min(round(p * m / n), m - 1) for p, n, m in zip(at, shape, size, strict=True)]
        centre = tuple(p * n / m for p, n, m in zip(place, shape, size, strict=True))
        position = (*(n // 2 for n in frames), *place)
    field = receptive_field(model, inputs, layer=layer, position=position)
    mean = f", mean of {len(inputs)} inputs" if len(inputs) > 1 else ""
    where = "the centre" if at is None else f"{args.at[0]},{args.at[1]}"
    title = f"{title}\neffective receptive field of {where} of {layer}{mean}"
    image = pixels if pixels.ndim == 4 else pixels[:, pixels.shape[1] // 2]
    told = figures.Field(layer, field, centre)
    return figures.draw_receptive_fields({"": [told]}, title=title, image=image)


def _spectrum(args, model, inputs, pixels, at, title):
    def chosen(found: Mapping[str, Found], most: int) -> dict[str, Found]:
        """Return what is in the block asked for, or some of all, evenly spaced."""
        if args.block is not None:
            inside = (args.block, f"{args.block}.")
            found = {n: v for n, v in found.items() if n == inside[0] or n.startswith(inside[1])}
        names = list(found)
        picked = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
        return {names[i]: found[names[i]] for i in picked}

    responses = frequency_responses(model, inputs)
    gains = chosen(responses, _FILTERS)
    if not gains:
        raise ValueError(f"--block {args.block}; expected one of {', '.join(responses)}")
    learned = chosen(thresholds(model), 4), chosen(orthogonal_bases(model), 2)
    return figures.draw_spectra(gains, *learned, title=f"{title}: spectral layers on these inputs")


def _paths(args, model, inputs, pixels, at, title):
    energies = path_energies(model, inputs)
    title = f"{title}: energy of local and global channels"
    return figures.draw_paths(pixels, energies, title=title)


_PICTURES = {
    "attention": _attention,
    "receptive-field": _receptive_field,
    "spectrum": _spectrum,
    "paths": _paths,
}


def _pixel(text: str) -> tuple[int, int]:
    try:
        y, x = (int(part) for part in text.split(","))
    except ValueError:
        message = f"{text!r} is not a pixel Y,X: two whole numbers"
        raise argparse.ArgumentTypeError(message) from None
    return y, x
