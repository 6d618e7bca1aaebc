# SPDX-License-Identifier: Apache-2.0
"""Decoding of image files of any kind to 8-bit RGB."""

import dataclasses
import math
from typing import BinaryIO

import numpy as np
from PIL import Image

from train.data.augment import Augmentation, Views

_ORIENTATION_TAG = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; transparency is dropped.

    Raises:
      ValueError: the values have no known range (floating point, more than 16 bits).
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"integers from {values.min()} to {values.max()}; expected 16 bits")
        grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        return grey.convert("RGB")
    if image.mode == "F":
        raise ValueError("floating point values, whose range is not known")
    if image.mode in ("P", "PA"):  # by way of RGBA Pillow reads every kind of transparency
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """An image file in, an array ``[H, W, 3]`` out, or ``[V, H, W, 3]`` for several test views."""

    augmentation: Augmentation | None
    views: Views

    @property
    def shape(self) -> tuple[int, ...]:
        return (*(self.augmentation or self.views).size, 3)

    @property
    def view_count(self) -> int:
        return 1 if self.augmentation else len(self.views)

    def __call__(self, file: str | BinaryIO, rng: np.random.Generator | None) -> np.ndarray:
        """Read one file; ``rng`` is what varies a training example, None in a test."""
        with Image.open(file) as image:
            orientation = _orientation(image)
            if self.augmentation is None:
                return self._test(_upright(image, orientation))
            width, height = image.size if orientation < 5 else image.size[::-1]
            box = self.augmentation.box(width, height, rng)
            self._draft(image, box)
            image = _upright(image, orientation)
            # A draft is smaller than the file says by a power of two, rounded up.
            x, y = image.width / width, image.height / height
            box = (box[0] * x, box[1] * y, min(box[2] * x, image.width), box[3] * y)
            box = (*box[:3], min(box[3], image.height))
            return self.augmentation([image], box, rng)[0]

    def _test(self, image: Image.Image) -> np.ndarray:
        views = self.views([image])[:, 0]
        return views if self.view_count > 1 else views[0]

    def _draft(self, image: Image.Image, box) -> None:
        """Let the JPEG decoder skip detail that the crop, scaled down, would lose anyway.

        Twice the needed resolution is left: the last factor is the resampling filter's.
        """
        height, width = self.augmentation.size
        need = 2 * max(width / (box[2] - box[0]), height / (box[3] - box[1]))
        if need < 1:
            image.draft(None, [math.ceil(need * n) for n in image.size])


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
        return value if value in _TO_UPRIGHT else 1
    except Exception:  # broken remarks of the camera do not make a broken image
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    image = to_rgb(image)
    return image if orientation == 1 else image.transpose(_TO_UPRIGHT[orientation])
