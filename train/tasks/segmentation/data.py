# SPDX-License-Identifier: Apache-2.0
"""Images with masks: synthetic ellipses, and folders laid out like ISIC's."""

import dataclasses
from pathlib import Path

import numpy as np

from spectral_flax.inference.images import files_by_stem, pillow, read_pair
from train.config import Data
from train.data import Example, Source, Split
from train.data.registry import opener, sized_folder
from train.data.unreadable import UnreadableFiles
from train.errors import UserError
from train.tasks.segmentation.options import Options


def open_split(split: Split, data: Data, options: Options) -> "Segmented":
    """Open a split of the data set that ``data`` names."""
    return opener(data, SOURCES)(split, data)


class Segmented(Source):
    """Images with a mask of two classes: what all these data sets share."""

    num_classes = 2
    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (*self.size, 3)

    def augment(self, example: Example, rng: np.random.Generator) -> Example:
        """Mirror along each axis at random, and exchange the axes of square images."""
        image, mask = example["image"], example["mask"]
        flips = rng.random(3) < 0.5
        for axis in (0, 1):
            if flips[axis]:
                image, mask = np.flip(image, axis), np.flip(mask, axis)
        if flips[2] and image.shape[0] == image.shape[1]:
            image, mask = image.swapaxes(0, 1), mask.swapaxes(0, 1)
        arrays = dict(image=np.ascontiguousarray(image), mask=np.ascontiguousarray(mask))
        return example | arrays


@dataclasses.dataclass(frozen=True)
class Ellipses(Segmented):
    """Moles on skin, 400 images to train on, 100 to test; the lesion is the one unlike the others.

    The lesion is a fifth darker than the other moles. How dark those are changes from image to
    image by more than that, so that a mole by itself does not tell.
    """

    split: Split
    size: tuple[int, int]

    def __len__(self) -> int:
        return 400 if self.split == "train" else 100

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng([self.split == "train", index])
        height, width = self.size
        y, x = np.mgrid[:height, :width] / np.array([[[height]], [[width]]])
        skin = np.array([0.85, 0.65, 0.55]) + rng.normal(0, 0.04, 3)
        image = np.broadcast_to(skin, (height, width, 3)).copy()
        image += 0.08 * (x - 0.5)[..., None] * rng.normal() + 0.08 * (y - 0.5)[..., None]
        shade = rng.uniform(0.45, 1.0)
        mask = np.zeros((height, width), bool)
        places = rng.permutation(_PLACES)[: rng.integers(5, 9)]
        for i, place in enumerate(places):
            size = rng.uniform(0.08, 0.14)
            inside = _ellipse(x, y, rng, size, place + rng.uniform(-0.04, 0.04, 2))
            colour = (_PIGMENT + rng.normal(0, 0.02, 3)) * shade * (0.8 if i == 0 else 1)
            image[inside] = 0.15 * image[inside] + 0.85 * colour
            mask = inside if i == 0 else mask & ~inside
        image += rng.normal(0, 0.04, (height, width, 1)) + rng.normal(0, 0.02, image.shape)
        pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return {"image": pixels, "mask": mask.astype(np.int32)}


_PIGMENT = np.array([0.62, 0.40, 0.32])
_PLACES = np.array([(i, j) for i in (0.2, 0.5, 0.8) for j in (0.2, 0.5, 0.8)])


def _ellipse(x, y, rng, size, centre) -> np.ndarray:
    """Return the pixels in an ellipse with a wavy border."""
    dx, dy = x - centre[0], y - centre[1]
    turn = rng.uniform(0, np.pi)
    a = (dx * np.cos(turn) + dy * np.sin(turn)) / size
    b = (dy * np.cos(turn) - dx * np.sin(turn)) / (size * rng.uniform(0.6, 1))
    wave = 1 + 0.1 * np.sin(rng.integers(2, 6) * np.arctan2(b, a) + rng.uniform(0, 6))
    return a**2 + b**2 < wave**2


@dataclasses.dataclass(frozen=True)
class Folders(Segmented):
    """Images in ``images/`` and masks of the same stem in ``masks/``, resized to ``size``.

    As in ISIC's archives the stem of a mask may end in ``_segmentation``. A mask is 0 outside the
    lesion and one other value inside; `read_mask` says how it is read.
    A file that cannot be read, or a mask that does not fit its image, is named once; another pair
    takes its place in training, and in a test it does not count.
    """

    folder: Path
    split: Split
    size: tuple[int, int]
    files: tuple[tuple[Path, Path], ...] = dataclasses.field(init=False, repr=False)
    unreadable: UnreadableFiles = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=UnreadableFiles
    )

    def __post_init__(self):
        images, masks = (_by_stem(self.folder / part) for part in ("images", "masks"))
        alone = [
            str(found[stem])
            for found, other in ((images, masks), (masks, images))
            for stem in sorted(found.keys() - other.keys())
        ]
        if alone:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            raise UserError(f"no image, or no mask, belongs to {', '.join(alone[:5])}{more}")
        if not images:
            raise UserError(f"{str(self.folder / 'images')!r} holds no images")
        files = tuple((images[stem], masks[stem]) for stem in sorted(images))
        object.__setattr__(self, "files", files)
        self._usable(0)  # an error, if none is

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        if self.split == "train":
            return self._usable(index)
        example = self._read(index)
        if example is None:
            blank = np.zeros(self.image_shape, np.uint8), np.zeros(self.size, np.int32)
            return {"image": blank[0], "mask": blank[1], "valid": np.float32(0)}
        return example | {"valid": np.float32(1)}

    def _usable(self, index: int) -> Example:
        return self.unreadable.readable(index, len(self), self._read, str(self.folder))

    def _read(self, index: int) -> Example | None:
        image, mask = self.files[index]
        return self.unreadable.read(f"{image} or {mask}", lambda: _resized(image, mask, self.size))


def _resized(image: Path, mask: Path, size: tuple[int, int]) -> Example:
    """Read a pair and resize it to ``size`` H, W, the mask to the nearest pixel."""
    picture, marked = read_pair(image, mask, labels=True)
    values = np.unique(marked)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise ValueError(
            f"{str(mask)!r} is not binary: it has {len(values)} values; expected 0 and one other"
        )
    resampling = pillow().Resampling
    picture = picture.resize(size[::-1], resampling.BILINEAR)
    inside = pillow().fromarray((marked != 0).astype(np.uint8))
    inside = inside.resize(size[::-1], resampling.NEAREST)
    return {"image": np.asarray(picture), "mask": np.asarray(inside).astype(np.int32)}


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {str(folder)!r}; expected images/ and masks/ in it")
    try:
        return files_by_stem(folder, ending="_segmentation")
    except ValueError as error:
        raise UserError(str(error)) from error


def ellipses(split: Split, data: Data) -> Ellipses:
    """Open the synthetic moles."""
    return Ellipses(split, data.size or (64, 64))


def image_mask_folders(split: Split, data: Data) -> Folders:
    """Open the folder of a split."""
    folder, size = sized_folder(data)
    return Folders(folder / split, split, size)


SOURCES = {"ellipses": ellipses, "image_mask_folders": image_mask_folders}
