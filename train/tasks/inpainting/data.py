# SPDX-License-Identifier: Apache-2.0
"""Images with random masks: synthetic textures, and folders of photographs."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spectral_flax.inference.images import SUFFIXES, read_image
from spectral_flax.models.record import Preprocessing
from train.config import Data
from train.data import Example, Source, Split
from train.data.listing import files_below
from train.data.registry import opener, sized_folder
from train.data.unreadable import UnreadableFiles
from train.errors import UserError
from train.tasks.inpainting.masks import EVALUATION, Mixed, scaled
from train.tasks.inpainting.options import Options

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 16
"""Longest side that is kept of a strip before it is enlarged, in units of its shorter side."""


def open_split(split: Split, data: Data, options: Options) -> "MaskedImages":
    """Open a split of the data set that ``data`` names."""
    return opener(data, SOURCES)(split, data, options)


def _textures(split: Split, data: Data, options: Options) -> "Textures":
    size = tuple(data.size or (64, 64))
    return Textures(split, size, _masks(split, size, options.test_masks))


def _image_folder(split: Split, data: Data, options: Options) -> "Photographs":
    folder, size = sized_folder(data)
    masks = _masks(split, size, options.test_masks)
    return Photographs(folder / split, split, size, masks, options.distort)


SOURCES = {"textures": _textures, "image_folder": _image_folder}


def _masks(split: Split, size: tuple[int, int], name: str | None) -> Mixed:
    """Return the distribution of a split's masks; ``name`` is checked in both splits."""
    if name is None:
        return scaled(min(size))
    title = f"--task-options.test-masks is {name!r}"
    if name not in EVALUATION:
        raise UserError(f"{title}; expected one of {', '.join(EVALUATION)}")
    side, masks = EVALUATION[name]
    if min(size) < side:
        raise UserError(f"{title}, which is for images of {side} pixels; --data.size is {size}")
    return masks if split == "test" else scaled(min(size))


class MaskedImages(Source):
    """Images with a mask, which training draws anew each time: the base of these data sets."""

    num_classes = 0
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    @property
    def preprocessing(self) -> Preprocessing:
        return dataclasses.replace(super().preprocessing, fit="any")

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (*self.size, 3)

    def augment(self, example: Example, rng: np.random.Generator) -> Example:
        """Mirror at random and draw another mask."""
        image = example["image"][:, ::-1] if rng.random() < 0.5 else example["image"]
        return example | {"image": np.ascontiguousarray(image), "mask": self._mask(rng)}

    def _mask(self, rng: np.random.Generator) -> np.ndarray:
        return self.masks(*self.size, rng).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Textures(MaskedImages):
    """Periodic textures, 1000 to train on and 100 to test: sums of waves, stripes and bricks.

    The masked part repeats what is around it, with a period that may exceed the reach of small
    convolutions.
    """

    split: Split
    size: tuple[int, int]
    masks: Mixed

    def __len__(self) -> int:
        return 1000 if self.split == "train" else 100

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng([self.split == "train", index, 7])
        height, width = self.size
        y, x = np.mgrid[:height, :width]
        colours = rng.uniform(0.1, 0.9, (3, 3))
        image = np.broadcast_to(colours[0], (height, width, 3)).copy()
        for colour in colours[1:]:
            angle, period = rng.uniform(0, np.pi), rng.uniform(6, 20)
            wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
            if rng.random() < 0.5:
                wave = np.sign(wave)
            image += 0.25 * wave[..., None] * (colour - 0.5)
        if rng.random() < 0.5:
            h, w = rng.integers(6, 14, size=2)
            row = y // h
            joints = (y % h == 0) | ((x + row % 2 * (w // 2)) % w == 0)
            image[joints] = colours[1] * 0.5
        pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return {"image": pixels, "mask": self._mask(rng)}


@dataclasses.dataclass(frozen=True)
class Photographs(MaskedImages):
    """Images of a folder and its sub-folders, cropped to ``size``: at random in training.

    A smaller image is enlarged first, a strip longer than ``LONGEST`` times its width is cut to its
    middle. The crop and the mask of a test image are fixed. With ``distort`` training images are
    warped and recoloured (`distorted`). A file that cannot be read is named once; another takes its
    place in training, and in a test it does not count.
    """

    folder: Path
    split: Split
    size: tuple[int, int]
    masks: Mixed
    distort: bool = False
    files: tuple[Path, ...] = dataclasses.field(init=False, repr=False)
    unreadable: UnreadableFiles = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=UnreadableFiles
    )

    def __post_init__(self):
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {str(self.folder)!r}")
        files = tuple(files_below(self.folder, SUFFIXES))
        if not files:
            raise UserError(f"{str(self.folder)!r} holds no images")
        object.__setattr__(self, "files", files)
        self._readable(0)  # an error, if none is

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        if self.split == "train":
            return {"image": self._readable(index)}
        pixels, valid = self._read(index), 1
        if pixels is None:
            pixels, valid = np.zeros(self.image_shape, np.uint8), 0
        rng = np.random.default_rng(index)
        example = {"image": self._crop(pixels, (0.5, 0.5)), "mask": self._mask(rng)}
        return example | {"valid": np.float32(valid)}

    def _readable(self, index: int) -> np.ndarray:
        return self.unreadable.readable(index, len(self), self._read, str(self.folder))

    def _read(self, index: int) -> np.ndarray | None:
        file = self.files[index]
        return self.unreadable.read(str(file), lambda: _enlarged(read_image(file), self.size))

    def augment(self, example: Example, rng: np.random.Generator) -> Example:
        """Crop, distort if asked to, and mirror at random, and draw a mask."""
        if self.distort:
            from train.tasks.inpainting.distortions import distorted  # needs Pillow

            crop = distorted(example["image"], self.size, rng)
        else:
            crop = self._crop(example["image"], rng.random(2))
        return super().augment(example | {"image": crop}, rng)

    def _crop(self, pixels: np.ndarray, where) -> np.ndarray:
        sizes = zip(where, pixels.shape, self.size, strict=False)
        top, left = (min(int(share * (n - m + 1)), n - m) for share, n, m in sizes)
        return pixels[top : top + self.size[0], left : left + self.size[1]]


def _enlarged(image: "Image.Image", size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an image, enlarged to ``size`` H, W at least."""
    growth = max(h / n for h, n in zip(size, (image.height, image.width), strict=True))
    if growth > 1:
        keep = LONGEST * max(min(image.size), *(n / growth for n in size))
        left, top = (max(0, round((n - keep) / 2)) for n in image.size)
        image = image.crop((left, top, image.width - left, image.height - top))
        image = image.resize([int(np.ceil(n * growth)) for n in image.size])
    return np.asarray(image)
