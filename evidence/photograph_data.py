# SPDX-License-Identifier: Apache-2.0
"""Photographs of scikit-image cut in two: the left half to train on, the right one to test on."""

from pathlib import Path

import numpy as np
from PIL import Image

PHOTOGRAPHS = ("brick", "chelsea")
"""Names in ``skimage.data``, both CC0: Bricks25 of CC0Textures; a cat, by Stefan van der Walt."""
SIDE = 256
"""Short side to which photographs are resized."""
TILE, STRIDE = 96, 32
"""Sides of the tiles that the left half is cut into, and the most that two are apart."""


def write(folder: Path, name: str) -> None:
    """Write ``train/``, tiles of the left half of a photograph, and ``test/``, the right half."""
    from skimage import data

    image = resized(getattr(data, name)())
    left, right = halves(image)
    _save(right, folder / "test" / f"{name}.png")
    for top, start in corners(left.height, left.width):
        tile = left.crop((start, top, start + TILE, top + TILE))
        _save(tile, folder / "train" / f"{name}_{top}_{start}.png")


def resized(pixels: np.ndarray) -> Image.Image:
    """Return the RGB image whose short side is ``SIDE``."""
    image = Image.fromarray(pixels).convert("RGB")
    scale = SIDE / min(image.size)
    return image.resize([round(n * scale) for n in image.size], Image.Resampling.LANCZOS)


def halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Return the left and the right half, which share no column."""
    middle = image.width // 2
    return (
        image.crop((0, 0, middle, image.height)),
        image.crop((middle, 0, image.width, image.height)),
    )


def corners(height: int, width: int) -> list[tuple[int, int]]:
    """Return top and left of tiles that cover an image and are ``STRIDE`` apart at most."""
    tops, lefts = (
        np.linspace(0, n - TILE, -(-(n - TILE) // STRIDE) + 1).astype(int) for n in (height, width)
    )
    return [(int(top), int(left)) for top in tops for left in lefts]


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
