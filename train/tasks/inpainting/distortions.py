# SPDX-License-Identifier: Apache-2.0
"""Random geometric distortion and colour jitter of LaMa's training images."""

import numpy as np
from PIL import Image

from train.data.colour import colour_jitter

SCALE, TURN = (0.7, 1.3), np.deg2rad(40)
PERSPECTIVE, BARREL = 0.06, 0.05
COLOURS = (0.2, 0.2, 30 / 255, 5 / 180)  # brightness, contrast, saturation, hue


def distorted(pixels: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a crop of ``size`` of the distorted image: ``[H, W, 3] -> [*size, 3]``, uint8.

    Random perspective, zoom, rotation, lens distortion and colour jitter; the image is reflected at
    its border. Ranges are those of the published configuration ("distortions" in advimman/lama)
    without its adaptive equalisation of histograms and its shear of a tenth of a degree. Pixels are
    sampled once, which blurs less than the published three times.
    """
    height, width = pixels.shape[:2]
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    x += rng.uniform(0, max(width - size[1], 0)) - width / 2
    y += rng.uniform(0, max(height - size[0], 0)) - height / 2
    x, y = x / width, y / height  # from the centre, in sizes of the image
    bent = 1 + rng.uniform(-BARREL, BARREL) * (x * x + y * y)
    x, y = x * bent * width, y * bent * height
    angle, zoom = rng.uniform(-TURN, TURN), rng.uniform(*SCALE)
    along, across = np.cos(angle) / zoom, np.sin(angle) / zoom
    x, y = along * x - across * y, across * x + along * y
    slant = rng.normal(0, rng.uniform(0, PERSPECTIVE), 2) / (width, height)
    depth = np.maximum(1 + slant[0] * x + slant[1] * y, 0.5)
    warped = _sampled(pixels, x / depth + width / 2, y / depth + height / 2)
    return np.asarray(colour_jitter([Image.fromarray(warped)], rng, COLOURS)[0])


def _sampled(pixels: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate between four pixels at positions that are reflected into the image."""
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = (_reflected(a + 1, n) for a, n in ((left, pixels.shape[1]), (top, len(pixels))))
    x, y = (x - left)[..., None], (y - top)[..., None]
    left, top = _reflected(left, pixels.shape[1]), _reflected(top, len(pixels))
    upper = pixels[top, left] * (1 - x) + pixels[top, right] * x
    lower = pixels[bottom, left] * (1 - x) + pixels[bottom, right] * x
    return np.rint(upper * (1 - y) + lower * y).astype(np.uint8)


def _reflected(index: np.ndarray, length: int) -> np.ndarray:
    """Return the pixel at ``index`` of an image that is mirrored at its last pixels."""
    period = max(2 * (length - 1), 1)
    index = index % period
    return np.minimum(np.minimum(index, period - index), length - 1)
