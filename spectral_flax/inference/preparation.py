# SPDX-License-Identifier: Apache-2.0
"""Images and videos as a model's input: resized, cut out, normalised as its record says."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from spectral_flax.inference import crops as places
from spectral_flax.inference.clips import clip_indices, uniform_starts
from spectral_flax.inference.images import File, normalized, pillow, read_image
from spectral_flax.inference.video_file import Video
from spectral_flax.models.record import Card, ModelRecord, Preprocessing

if TYPE_CHECKING:
    from PIL import Image

About = nnx.Module | ModelRecord | Preprocessing
"""What tells how an input is prepared."""


def preprocessing_of(about: About) -> Preprocessing:
    """Return how a model's input is prepared: of a model, a record, a card or as it is.

    Raises TypeError for anything else, and for a model that tells nothing.
    """
    if isinstance(about, Card):
        return about.preprocessing
    if isinstance(about, Preprocessing):
        return about
    record = about.record if isinstance(about, nnx.Module) and hasattr(about, "record") else about
    if isinstance(record, ModelRecord) and record.preprocessing is not None:
        return record.preprocessing
    raise TypeError(
        f"{type(about).__name__} does not say how its input is prepared; expected a model of "
        "sf.load or sf.create_model, its record, a card or a Preprocessing"
    )


def prepare(images: Any, about: About) -> np.ndarray:
    """Return a model's input, float32: ``[H, W, C]`` for an image, ``[N, H, W, C]`` for a list.

    An image is a file, a Pillow image or uint8 ``[H, W, 3]`` (``[H, W]`` or ``[H, W, 1]`` for a
    model of grey images), of any size. Of a model for videos it is a video file or uint8
    ``[T, H, W, 3]``, and becomes ``[T, H, W, C]``. ``about`` is the model, its record or its card.
    Transparency in a file is laid on white.

    Raises:
      ValueError: an array has another shape or dtype.
      TypeError: ``about`` tells nothing.
      OSError, ImageFileError: a file can not be read.
    """
    about = preprocessing_of(about)
    one = _clip if len(about.input_size) == 3 else _image
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        if not images:
            raise ValueError("images is empty; expected at least one")
        prepared = [one(image, about) for image in images]
        if about.fit == "any" and len({x.shape for x in prepared}) > 1:
            raise ValueError("images differ in size, and the model takes any: give them one by one")
        return np.stack(prepared)
    return one(images, about)


def _image(image: "np.ndarray | Image.Image | File", about: Preprocessing) -> np.ndarray:
    return normalized_as(_cut(_as_image(image, about), about), about)


def _clip(video: "np.ndarray | File", about: Preprocessing) -> np.ndarray:
    return prepare_views(video, about)[0]


def prepare_views(
    video: "np.ndarray | File", about: About, *, clips: int = 1, crops: int = 1
) -> np.ndarray:
    """Return views of a video, ``[clips * crops, T, H, W, C]``, float32.

    Clips are spread evenly over the video, the only one is its middle; crops are the centre, or
    three along the longer side. Frames of an array are neighbours if there are too few for the
    model's stride. Errors as in `prepare`, and ValueError for other numbers.
    """
    about = preprocessing_of(about)
    if clips < 1 or crops not in (1, 3) or (crops == 3 and about.fit != "crop"):
        raise ValueError(f"clips={clips}, crops={crops}; expected a positive number, and 1 or 3")
    frames, starts = about.input_size[0], uniform_starts(clips)
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.dtype != np.uint8:
            raise ValueError(f"clip is {video.dtype} {video.shape}; expected uint8 [T, H, W, 3]")
        stride = about.stride if len(video) > (frames - 1) * about.stride else 1
        numbers = clip_indices(len(video), frames, stride, starts, sampling=about.sampling)
        found = {i: _as_image(video[i], about) for i in np.unique(numbers).tolist()}
    else:
        with Video(video) as file:
            clip = (frames, about.stride, starts)
            numbers = clip_indices(len(file), *clip, sampling=about.sampling)
            found = file.frames(numbers)
    cut = {i: _views(picture, about, crops) for i, picture in found.items()}
    views = [np.stack([cut[i][v] for i in row.flat]) for row in numbers for v in range(crops)]
    return normalized_as(np.stack(views), about)


def _views(image: "Image.Image", about: Preprocessing, count: int) -> list[np.ndarray]:
    if count == 1:
        return [_cut(image, about)]
    size = about.input_size[-2:]
    resampling = pillow().Resampling[about.interpolation.upper()]
    boxes = places.three(*image.size, size, about.resize)
    return [np.asarray(image.resize(size[::-1], resampling, box)) for box in boxes]


def _cut(image: "Image.Image", about: Preprocessing) -> np.ndarray:
    """Return the pixels that the model sees, uint8 ``[H, W, C]``."""
    rows, columns = about.input_size[-2:]
    if about.fit != "any" and (about.fit == "crop" or image.size != (columns, rows)):
        box = seen_box(*image.size, about)
        resampling = pillow().Resampling[about.interpolation.upper()]
        image = image.resize((columns, rows), resampling, box)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def seen_box(width: int, height: int, about: About) -> places.Box:
    """Return the part of an image of that size that a model sees: left, top, right, bottom."""
    about = preprocessing_of(about)
    if about.fit != "crop":
        return 0, 0, width, height
    (box,) = places.centre(width, height, about.input_size[-2:], about.resize)
    return box


def pixels_of(inputs: np.ndarray, about: About) -> np.ndarray:
    """Return inputs that `prepare` made as pixels again: ``[..., C]`` to uint8 ``[..., 3]``."""
    about = preprocessing_of(about)
    mean, std = (np.float32(a)[(None,) * (inputs.ndim - 1)] for a in (about.mean, about.std))
    whole = 1 if mean.max() > 1 else 255
    pixels = np.clip(np.round((inputs * std + mean) * whole), 0, 255).astype(np.uint8)
    if about.channel_order == "grey":
        return pixels.repeat(3, -1)
    return pixels[..., ::-1] if about.channel_order == "BGR" else pixels


def normalized_as(pixels, about: Preprocessing):
    """Return pixels, ``[..., C]`` of 0 to 255, as a model's input; arrays of NumPy or JAX."""
    mean, std = np.float32(about.mean), np.float32(about.std)
    if mean.max() > 1:  # of numbers from 0 to 255
        mean, std = mean / 255, std / 255
    return normalized(pixels, mean, std, bgr=about.channel_order == "BGR")


def _as_image(image, about: Preprocessing) -> "Image.Image":
    grey = about.channel_order == "grey"
    if isinstance(image, np.ndarray):
        flat = image[..., 0] if grey and image.ndim == 3 and image.shape[-1] == 1 else image
        if image.dtype != np.uint8 or not (flat.shape[2:] == (3,) or (grey and flat.ndim == 2)):
            expected = "[H, W] or [H, W, 3]" if grey else "[H, W, 3]"
            raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 {expected}")
        image = pillow().fromarray(flat)
    elif isinstance(image, str | os.PathLike) or hasattr(image, "read"):
        image = read_image(image, alpha="white")
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def with_size(
    about: About,
    size: tuple[int, int] | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing:
    """Return a model's preprocessing with another height and width, mean or deviation.

    The short side before a crop grows and shrinks with the size.
    """
    told = preprocessing_of(about)
    if size is not None:
        share = max(size) / max(told.input_size[-2:])
        resize = max(1, round(told.resize * share))
        told = dataclasses.replace(told, input_size=(*told.input_size[:-2], *size), resize=resize)
    given = {"mean": mean, "std": std}
    return dataclasses.replace(told, **{k: tuple(v) for k, v in given.items() if v is not None})


def is_video(path: str | os.PathLike[str]) -> bool:
    """Return whether a file's name ends as that of a video."""
    return pathlib.Path(path).suffix.lower() in VIDEOS


VIDEOS = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg")
"""Suffixes of files that are read as videos."""
