# SPDX-License-Identifier: Apache-2.0
"""Images with masks: ellipses made on the spot, and folders laid out as ISIC's."""

import dataclasses
from pathlib import Path

import numpy as np

from spectral_flax.inpainting import IMAGE_SUFFIXES
from train import image_files
from train.config import Data
from train.data import Example, Split
from train.errors import UserError


def open_split(name: str, split: Split, data: Data) -> "Ellipses | Folders":
    """Open a data set of this module."""
    if name == "ellipses":
        return Ellipses(split, data.size or (64, 64))
    if data.path is None or data.size is None:
        raise UserError(f"the data set {name!r} needs --data.path FOLDER and --data.size H W")
    return Folders(Path(data.path) / split, tuple(data.size))


class Segmented:
    """What all these data sets share."""

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
    lesion and one other value inside.
    """

    folder: Path
    size: tuple[int, int]
    files: tuple[tuple[Path, Path], ...] = dataclasses.field(init=False, repr=False)

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

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        from PIL import Image

        paths = self.files[index]
        image, mask = image_files.read(paths[0]), image_files.read(paths[1], "L")
        if image.size != mask.size:
            raise UserError(
                f"{str(paths[1])!r} is {mask.size[0]}x{mask.size[1]}; its image is "
                f"{image.size[0]}x{image.size[1]}"
            )
        values = np.unique(np.asarray(mask))
        if len(values) > 2 or (len(values) == 2 and values[0] != 0):
            raise UserError(f"{str(paths[1])!r} is not binary: it has values {values[:5]}")
        width_height = self.size[::-1]
        image = image.resize(width_height, Image.Resampling.BILINEAR)
        mask = mask.resize(width_height, Image.Resampling.NEAREST)
        return {"image": np.asarray(image), "mask": (np.asarray(mask) != 0).astype(np.int32)}


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {str(folder)!r}; expected images/ and masks/ in it")
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
    return {path.stem.removesuffix("_segmentation"): path for path in files}
