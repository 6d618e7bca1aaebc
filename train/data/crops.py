# SPDX-License-Identifier: Apache-2.0
"""Random crops of training images, as boxes; the fixed ones are in `inference.crops`."""

import numpy as np

from spectral_flax.inference.crops import Box, Size

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)


def random_resized(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draw a part of the area and an aspect ratio, uniform in its logarithm.

    After ten draws that do not fit: the largest centred box of a ratio in the range. Szegedy et
    al., CVPR 2015.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return float(left), float(top), float(left + w), float(top + h)
    aspect = float(np.clip(width / height, *ratio))
    w, h = min(width, height * aspect), min(height, width / aspect)
    return _placed(width, height, w, h, 0.5, 0.5)


def multi_scale(width: int, height: int, rng: np.random.Generator, size: Size) -> Box:
    """Draw a crop for video: sides of two neighbouring scales, one of 13 fixed places.

    Scales are relative to the short side; a side that differs from the output by less than three
    pixels is the output's. Wang et al., ECCV 2016 (temporal segment networks).
    """
    short = min(width, height)

    def sides(target: int) -> list[int]:
        found = [max(1, int(short * scale)) for scale in MULTI_SCALES]
        return [min(target, short) if abs(side - target) < 3 else side for side in found]

    heights, widths = sides(size[0]), sides(size[1])
    pairs = [(h, w) for i, h in enumerate(heights) for j, w in enumerate(widths) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    x, y = _PLACES[rng.integers(len(_PLACES))]
    # Whole quarters of the free space, as published.
    left, top = x * ((width - w) // 4), y * ((height - h) // 4)
    return float(left), float(top), float(left + w), float(top + h)


_CORNERS = ((0, 0), (4, 0), (0, 4), (4, 4))
_PLACES = (
    *_CORNERS,
    *((2, 2), (0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)


def random_short_side(
    width: int, height: int, rng: np.random.Generator, size: Size, short_side: tuple[int, int]
) -> Box:
    """Draw a short side to resize to, then a place. Simonyan and Zisserman, ICLR 2015."""
    short = rng.integers(short_side[0], short_side[1] + 1)
    w, h = _crop_size(width, height, size, short)
    return _placed(width, height, w, h, *rng.random(2))


def _crop_size(width: int, height: int, size: Size, short_side: int) -> tuple[float, float]:
    """Return what ``size`` measures before resizing; an image too small for it grows further."""
    growth = max(short_side / min(width, height), size[0] / height, size[1] / width)
    return size[1] / growth, size[0] / growth


def _placed(width: int, height: int, w: float, h: float, x: float, y: float) -> Box:
    left, top = x * (width - w), y * (height - h)
    # Rounding must not push a box over the edge.
    return left, top, min(left + w, width), min(top + h, height)
