# SPDX-License-Identifier: Apache-2.0
"""Labelled data sets by name, and helpers to open data sets of any task."""

import dataclasses
import re
from collections.abc import Callable, Mapping

from spectral_flax import buckets
from spectral_flax.inference.images import pillow
from spectral_flax.inference.preparation import VIDEOS
from spectral_flax.inference.video_file import pyav
from spectral_flax.messages import closest, several
from train.config import Data
from train.data.arrays import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    mnist5k,
    packed,
    synthetic_images,
    synthetic_videos,
)
from train.data.files import Files, Items
from train.data.listing import IMAGES, class_folders, list_file
from train.data.moving_digits import moving_digits
from train.data.source import Source, Split
from train.data.tensorflow_datasets import records
from train.errors import UserError
from train.processes.distributed import log
from train.processes.paths import opened_path

TFDS = "tfds:"
"""Prefix of the name of a set of TensorFlow Datasets: ``tfds:cifar10``."""


def image_folder_classes(split: Split, data: Data) -> Files:
    """Images in one folder per class."""
    return _images(split, data, class_folders(folder_of(data), split, IMAGES, data.num_classes))


def image_list(split: Split, data: Data) -> Files:
    """Images that a list names, with labels."""
    return _images(split, data, list_file(folder_of(data), split, data.num_classes))


def video_folder(split: Split, data: Data) -> Files:
    """Videos in one folder per class."""
    return _videos(split, data, class_folders(folder_of(data), split, VIDEOS, data.num_classes))


def video_list(split: Split, data: Data) -> Files:
    """Videos that a list names, with labels."""
    return _videos(split, data, list_file(folder_of(data), split, data.num_classes))


def imagenet2012(split: Split, data: Data) -> Files:
    """ImageNet-1k as TensorFlow Datasets prepares it."""
    return _tfds("imagenet2012", split, data)


SOURCES: dict[str, Callable[[Split, Data], Source]] = {
    "mnist5k": mnist5k,
    "moving_digits": moving_digits,
    "packed": packed,
    "synthetic_images": synthetic_images,
    "synthetic_videos": synthetic_videos,
    "image_folder_classes": image_folder_classes,
    "image_list": image_list,
    "video_folder": video_folder,
    "video_list": video_list,
    "imagenet2012": imagenet2012,
}
"""Data sets of classification by name."""


def open_source(name: str, split: Split, data: Data | None = None) -> Source:
    """Open the labelled data set ``name``; ``data`` holds its settings.

    Raises:
      UserError: there is no such data set, or ``data`` does not fit it.
    """
    data = data or Data(name=name)
    if name.startswith(TFDS):
        source = _tfds(name.removeprefix(TFDS), split, data)
    elif name in SOURCES:
        source = SOURCES[name](split, data)
    else:
        raise UserError(f"there is no data set {name!r}; {closest(name, SOURCES)} (or {TFDS}NAME)")
    return _checked(source, data)


def opener(data: Data, sources: Mapping[str, Callable]) -> Callable:
    """Return the function that opens the data set ``data.name``, one without labels.

    Raises:
      UserError: there is no such data set, or ``data`` has settings of labelled data sets.
    """
    if data.name not in sources:
        raise UserError(f"there is no data set {data.name!r}; {closest(data.name, sources)}")
    _require(pillow, data)  # needed for results.png at the latest
    _refuse(data, views="single", channels="rgb", mean=None, std=None)
    return sources[data.name]


def folder_of(data: Data) -> "buckets.Path":
    """Return ``data.path``; raises UserError if there is none, or its bucket cannot be read."""
    if data.path is None:
        raise UserError(f"the data set {data.name!r} needs --data.path FOLDER")
    return opened_path("--data.path", data.path)


def sized_folder(data: Data) -> tuple["buckets.Path", tuple[int, int]]:
    """Return ``data.path`` and ``data.size``; raises UserError if one is missing."""
    if data.path is None or data.size is None:
        raise UserError(f"the data set {data.name!r} needs --data.path FOLDER and --data.size H W")
    return folder_of(data), tuple(data.size)


def _checked(source: Source, data: Data) -> Source:
    """Apply the settings that all sources have, and refuse those that this one has not."""
    channels = source.image_shape[-1]
    for field in ("mean", "std"):
        values = getattr(data, field)
        if values is not None and len(values) != channels:
            raise UserError(f"--data.{field} is {values}; expected {channels} value(s)")
    if not isinstance(source, Files):
        _refuse(data, views="single", channels="rgb")
    if data.num_classes is not None and data.num_classes != source.num_classes:
        raise UserError(
            f"--data.num-classes is {data.num_classes}; {data.name!r} has {source.num_classes}"
        )
    changes = {k: getattr(data, k) for k in ("mean", "std") if getattr(data, k) is not None}
    source = dataclasses.replace(source, **changes) if changes else source
    if isinstance(source, Files):
        source.require_one_readable()
    return source


def _refuse(data: Data, **plain) -> None:
    """Refuse settings without effect on a data set: fields that differ from ``plain``."""
    for field, value in plain.items():
        if getattr(data, field) != value:
            raise UserError(
                f"--data.{field} is {getattr(data, field)!r}; {data.name!r} has {value!r} only"
            )


def _tfds(name: str, split: Split, data: Data) -> Files:
    return _images(split, data, records(name, split, data))


def _images(split: Split, data: Data, items: Items) -> Files:
    _require(pillow, data)
    from train.data.augment import Augmentation, Views
    from train.data.images import ImageReader

    if data.views == "multi":
        raise UserError("--data.views is 'multi', which is for videos; expected single, ten_crops")
    data = _mirrored(data, items, split)
    train, size, test_size = _sizes(split, data)
    crops = "ten" if data.views == "ten_crops" else "centre"
    reader = ImageReader(Augmentation(size, data) if train else None, Views(test_size, crops, data))
    return _files(split, data, items, reader)


def _videos(split: Split, data: Data, items: Items) -> Files:
    _require(pillow, data)
    from train.data.augment import Augmentation, Views
    from train.data.video import ClipReader

    _require(pyav, data)
    data = _mirrored(data, items, split)
    train, size, test_size = _sizes(split, data)
    crops = {"single": "centre", "ten_crops": "ten"}.get(data.views)
    crops = crops or {1: "centre", 3: "three"}[data.test_crops]
    reader = ClipReader(
        Augmentation(size, data) if train else None,
        Views(test_size, crops, data),
        frames=data.frames,
        stride=data.stride,
        segments=data.segments,
        clips=1 if data.views == "single" else data.test_clips,
        sampling=data.sampling,
    )
    return _files(split, data, items, reader)


_SIDE = re.compile(r"(?<![a-z])(left|right)(wards?)?(?![a-z])", re.IGNORECASE)


def _mirrored(data: Data, items: Items, split: Split) -> Data:
    """Return the settings without mirroring where names of classes say left or right."""
    sides = [name for name in items.class_names if _SIDE.search(name)]
    if data.flip is not None or not sides:
        return data
    if split == "train":
        log(f"classes say left or right ({several(sides, 3)}): no image is mirrored (--data.flip)")
    return dataclasses.replace(data, flip=False)


def _sizes(split: Split, data: Data):
    size = tuple(data.size or (224, 224))
    return split == "train", size, tuple(data.test_size or size)


def _files(split: Split, data: Data, items: Items, reader) -> Files:
    order = slice(None, None, -1 if data.channels == "bgr" else 1)
    mean, std = IMAGENET_MEAN[order], IMAGENET_STD[order]
    name = f"{data.name} {data.path or ''}/{split}"
    return Files(name, items, reader, split == "train", mean, std)


def _require(package: Callable[[], object], data: Data) -> None:
    try:
        package()
    except ImportError as error:
        raise UserError(f"{data.name!r}: {error}") from error
