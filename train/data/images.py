# SPDX-License-Identifier: Apache-2.0
"""Decoding of image files of any kind to 8-bit RGB."""

import dataclasses
import math
from typing import BinaryIO

import numpy as np
from PIL import Image

from spectral_flax.inference.images import opened, orientation, to_rgb, upright
from spectral_flax.models.record import Preprocessing
from train.data.augment import Augmentation, Views


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

    def preprocessing(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
        return self.views.preprocessing(mean, std)

    def __call__(self, file: str | BinaryIO, rng: np.random.Generator | None) -> np.ndarray:
        """Read one file; ``rng`` is what varies a training example, None in a test."""
        with opened(file) as image:
            turn = orientation(image)
            if self.augmentation is not None:
                width, height = image.size if turn < 5 else image.size[::-1]
                box = self.augmentation.box(width, height, rng)
                self._draft(image, box)
            image.load()
            image = upright(to_rgb(image, alpha="white"), turn)
        if self.augmentation is None:
            return self._test(image)
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
