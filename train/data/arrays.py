# SPDX-License-Identifier: Apache-2.0
"""Data sets in memory: digits of the repository, packed files, synthetic images."""

import dataclasses
from pathlib import Path

import numpy as np

from spectral_flax import buckets
from spectral_flax.messages import shown
from train.config import Data
from train.data.label_list import MOST_CLASSES
from train.data.npz_file import read_npz
from train.data.source import Example, Source, Split
from train.errors import UserError
from train.processes.paths import opened_path

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Source):
    """Images ``uint8 [N, H, W, C]``, or clips ``[N, T, H, W, C]``, with one label each."""

    name: str
    images: np.ndarray = dataclasses.field(repr=False)
    labels: np.ndarray = dataclasses.field(repr=False)
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": np.int32(self.labels[index])}


def mnist5k(split: Split, data: Data | None = None) -> Arrays:
    """Handwritten digits of the repository: 4000 to train on, 1000 to test."""
    with np.load(Path(__file__).parents[1] / "embedded" / "mnist5k.npz") as file:
        images, labels = file["images"][..., None], file["labels"]
    part = slice(0, 4000) if split == "train" else slice(4000, 5000)
    return Arrays(f"mnist5k/{split}", images[part], labels[part], 10, mean=(0.1307,), std=(0.3081,))


def packed(split: Split, data: Data) -> Arrays:
    """Read ``train.npz`` or ``test.npz`` with arrays ``images`` (uint8) and ``labels``."""
    layout = "expected train.npz and test.npz in it, each with arrays images and labels"
    if data.path is None:
        raise UserError(f"the data set 'packed' needs --data.path FOLDER; {layout}")
    file = opened_path("--data.path", data.path) / f"{split}.npz"
    images, labels = _read_packed(file, layout)
    known = labels if split == "train" else _read_packed(file.parent / "train.npz", layout)[1]
    count = data.num_classes or int(known.max()) + 1
    if count > MOST_CLASSES:
        raise UserError(
            f"{str(file)!r}: train.npz has the label {count - 1}, too large for a class"
        )
    if labels.min() < 0 or labels.max() >= count:
        raise UserError(
            f"{str(file)!r} has labels from {labels.min()} to {labels.max()}; expected 0 ... "
            f"{count - 1}"
        )
    channels = images.shape[-1]
    colour = channels == 3
    mean = IMAGENET_MEAN if colour else (0.5,) * channels
    std = IMAGENET_STD if colour else (0.25,) * channels
    return Arrays(str(file), images, labels.astype(np.int32), count, mean, std)


def _read_packed(file: "buckets.Path", layout: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_npz(file, ("images", "labels"), layout)
    if images.dtype != np.uint8 or images.ndim not in (4, 5) or not images.size:
        raise UserError(
            f"images in {str(file)!r} are {_kind(images)}; expected "
            "uint8 [N, H, W, C] or [N, T, H, W, C]"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels in {str(file)!r} are {_kind(labels)}; expected {len(images)} integers"
        )
    return images, labels


def _kind(array: np.ndarray) -> str:
    return f"{shown(str(array.dtype))}{list(array.shape)}"


@dataclasses.dataclass(frozen=True)
class Synthetic(Source):
    """Noise that costs nothing to read, to time everything else: 50 000 examples, 16 distinct."""

    split: Split
    image_shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    images: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.split == "train")
        images = rng.integers(0, 256, (16, *self.image_shape), np.uint8)
        object.__setattr__(self, "images", images)

    def __len__(self) -> int:
        return 50_000

    def __getitem__(self, index: int) -> Example:
        label = np.int32(index % self.num_classes)
        return {"image": self.images[index % len(self.images)], "label": label}


def synthetic_images(split: Split, data: Data) -> Synthetic:
    """Noise of ImageNet's size, unless the config says otherwise."""
    return Synthetic(split, (*(data.size or (224, 224)), 3), data.num_classes or 1000)


def synthetic_videos(split: Split, data: Data) -> Synthetic:
    """Noise of the size of Kinetics-400's clips, unless the config says otherwise."""
    shape = (data.frames, *(data.size or (224, 224)), 3)
    shape = (data.segments, *shape) if data.segments > 1 else shape
    return Synthetic(split, shape, data.num_classes or 400)
