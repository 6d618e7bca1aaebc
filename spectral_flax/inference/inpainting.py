# SPDX-License-Identifier: Apache-2.0
"""Inpainting of arrays, files and folders by a LaMa generator."""

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from spectral_flax.files import local_path
from spectral_flax.inference.generator import Generator
from spectral_flax.inference.image_output import check_output, check_output_folder, save_image
from spectral_flax.inference.images import files_by_stem, pillow, read_pair
from spectral_flax.inference.inpainting_plan import Mode, check_mode, make_plan
from spectral_flax.memory import available_memory, parse_memory, shown_memory

MARGIN = 0.8  # of the memory that is left, which may be planned with; estimates are rough


def inpaint(
    model: nnx.Module,
    image: ArrayLike,
    mask: ArrayLike,
    *,
    multiple: int = 8,
    mode: Mode = "auto",
    max_memory: int | str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Fill in the missing part of an image: ``[H, W, 3], [H, W] -> [H, W, 3]``.

    Any H and W, with or without a leading batch axis on both. ``image`` is uint8, or floating in
    [0, 1]; the result has its dtype. The mask is anything but 0 where the image is missing. Known
    pixels come back bit for bit, so an empty mask returns the image. The model sees the image
    padded at the bottom and on the right, by mirroring, to multiples of ``multiple``; a larger one
    means fewer compilations for a collection of sizes.

    An image larger than a device's memory is filled in by another ``mode``, chosen from an estimate
    before anything is compiled: "whole", if it fits; "rows", the rows of all maps over this
    process's devices, if there are several; "crops", each hole with its surroundings, one crop
    after another; "refine", such crops at a size that a LaMa knows, then at two and four times
    that, with features optimised to agree (`refinement`), and enlarged if that is still too small.
    "auto" takes the first that ``max_memory`` (bytes, or a text such as "8GiB") allows; without
    that, four fifths of what the device has left. A mode that is named is refused only where
    ``max_memory`` forbids it. ``report`` is told the plan, then each step, in a line.

    Raises:
      ValueError: a shape does not fit, values are outside [0, 1], the model is no generator, or
        the mode is unknown, impossible, or takes more memory than ``max_memory``.
      TypeError: the image is neither uint8 nor floating, or the mask holds no numbers.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.ndim not in (3, 4) or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; expected [H, W, 3] or [N, H, W, 3]")
    if mask.shape == (*image.shape[:-1], 1):
        mask = mask[..., 0]
    if mask.shape != image.shape[:-1]:
        raise ValueError(f"mask has shape {mask.shape}; expected {image.shape[:-1]}, the image's")
    if image.dtype != np.uint8 and not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"image has dtype {image.dtype}; expected uint8, or floating in [0, 1]")
    if image.dtype != np.uint8 and not (np.min(image) >= 0 and np.max(image) <= 1):
        raise ValueError("image has values outside [0, 1]")
    if not isinstance(multiple, int | np.integer) or multiple < 1 or multiple % 8:
        raise ValueError(f"multiple={multiple!r}; expected a multiple of 8")
    if mask.dtype.kind not in "biuf" and not jnp.issubdtype(mask.dtype, jnp.floating):
        raise TypeError(f"mask has dtype {mask.dtype}; expected truth values or real numbers")
    check_mode(mode)
    limit = _limit(mode, max_memory)
    missing = mask != 0
    if not missing.any():
        return image.copy()
    generator = Generator(model, multiple)
    if image.ndim == 3:
        return _inpaint(generator, image, missing, mode, limit, report)
    most = float("inf") if limit is None else limit
    if mode in ("auto", "whole") and (memory := generator.memory(missing.shape)) <= most:
        size = " x ".join(map(str, missing.shape[1:]))
        report(f"whole: {len(image)} images of {size} pixels, about {shown_memory(memory)}")
        return generator.fill(image, missing)
    pairs = zip(image, missing, strict=True)
    return np.stack([_inpaint(generator, *pair, mode, limit, report) for pair in pairs])


def _inpaint(generator, image, missing, mode, limit, report):
    """Fill in one image as planned."""
    if not missing.any():
        return image.copy()
    devices = jax.local_devices()
    plan = make_plan(generator, missing, mode=mode, limit=limit, devices=devices)
    report(str(plan))
    if plan.mode in ("whole", "rows"):
        sharing = devices if plan.mode == "rows" else ()
        return generator.fill(image[None], missing[None], sharing)[0]
    filled, missing = image.copy(), missing.copy()
    for number, crop in enumerate(plan.crops, start=1):
        size = " x ".join(map(str, crop.shape))
        report(f"crop {number} of {len(plan.crops)}: {size} pixels")
        part, unknown = filled[crop.window], missing[crop.window]
        now = unknown & plan.holes.inside(crop)
        if plan.mode == "refine":
            result = generator.refine(part, unknown, plan.finest[number - 1], report)
        else:
            result = generator.fill(part[None], unknown[None])[0]
        part[now] = result[now]
        unknown[now] = False
    return filled


def _limit(mode: Mode, max_memory: int | str | None) -> int | None:
    if max_memory is not None:
        return parse_memory(max_memory)
    left = available_memory(jax.local_devices()[0]) if mode == "auto" else None
    return None if left is None else int(left * MARGIN)


def inpaint_file(
    model: nnx.Module,
    image: str | os.PathLike[str],
    mask: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Fill in an image file where a mask file marks it, and write the result to ``out``.

    Marked is what is not black, or the shape in a mask's alpha channel (`images.read_mask`). Grey
    images stay grey and an alpha channel is kept as it is, and so are colour profile, EXIF,
    resolution and texts; the result is upright. Known pixels are unchanged if ``out`` is of a
    lossless format (PNG, TIFF, WebP). All is checked before the work begins. ``options`` are those
    of `inpaint`.

    Raises:
      ValueError: a file is no image, has more than 8 bits a channel, the sizes or the frames
        differ, the mask is empty, or ``out`` can not hold the result.
      OSError: a file is missing, or ``out`` exists and is not to be overwritten.
    """
    pixels, missing = read_job(image, mask, out, overwrite=overwrite)
    grey, opaque = pixels.shape[-1] < 3, pixels.shape[-1] in (1, 3)
    colour = np.repeat(pixels[..., :1], 3, -1) if grey else pixels[..., :3]
    filled = inpaint(model, colour, missing, **options)
    if grey:
        filled = np.rint(filled.astype(np.float32).mean(-1, keepdims=True)).astype(np.uint8)
    if not opaque:
        filled = np.concatenate([filled, pixels[..., -1:]], -1)
    result = pillow().fromarray(filled[..., 0] if filled.shape[-1] == 1 else filled)
    save_image(result, out, source=image, overwrite=overwrite)


def read_job(
    image: str | os.PathLike[str],
    mask: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Read what `inpaint_file` needs and check that it can write: ``[H, W, 1 to 4], bool [H, W]``.

    Raises:
      ValueError, OSError: as `inpaint_file`.
    """
    picture, marked = read_pair(image, mask, alpha="keep")
    if not marked.any():
        raise ValueError(f"mask {os.fspath(mask)!r} is empty: nothing is to be filled in")
    check_output(out, mode=picture.mode, overwrite=overwrite)
    pixels = np.asarray(picture)
    return pixels.reshape(*marked.shape, -1), marked != 0


def inpaint_folder(
    model: nnx.Module,
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    on_fault: Callable[[Exception], None] | None = None,
    **options: Any,
) -> Iterator[pathlib.Path]:
    """Fill in every image of a folder with the mask of the same stem, writing PNG files to ``out``.

    Yields the path of each result. Nothing is written if an image has no mask or a mask no image,
    or if a result exists already and is not to be overwritten. An image or mask that cannot be
    used is told to ``on_fault`` and the others are filled in; without it, it ends the work.
    """
    jobs = folder_jobs(images, masks, out, overwrite=overwrite)
    local_path(out, "output").mkdir(parents=True, exist_ok=True)
    for image, mask, path in jobs:
        try:
            inpaint_file(model, image, mask, path, overwrite=overwrite, **options)
        except (ValueError, OSError) as error:
            if on_fault is None:
                raise
            on_fault(error)
        else:
            yield path


def folder_jobs(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> list[tuple[pathlib.Path, pathlib.Path, pathlib.Path]]:
    """Return the paths of image, mask and result of each task of `inpaint_folder`.

    Raises:
      ValueError: a file has no partner, or there is none, or two share a name.
      OSError: a folder is missing, or a result exists and is not to be overwritten.
    """
    pictures, marks = files_by_stem(images), files_by_stem(masks)
    alone = [
        str(found[stem])
        for found, other in ((pictures, marks), (marks, pictures))
        for stem in sorted(found.keys() - other.keys())
    ]
    if alone or not pictures:
        found = f"files without a partner: {', '.join(alone)}" if alone else "no images"
        raise ValueError(f"{str(images)!r} and {str(masks)!r}: {found}")
    jobs = [
        (pictures[stem], marks[stem], local_path(out, "output") / f"{stem}.png")
        for stem in sorted(pictures)
    ]
    check_output_folder(out, [path for _, _, path in jobs], overwrite=overwrite)
    return jobs
