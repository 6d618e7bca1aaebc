# SPDX-License-Identifier: Apache-2.0
"""Images as inputs of a model, prepared as its card says."""

from typing import TYPE_CHECKING

import numpy as np

from spectral_flax.inference.images import normalized, pillow
from spectral_flax.models.registry import Card

if TYPE_CHECKING:
    from PIL import Image

# A thin strip is cut to this ratio of its sides before it is resized; the crop sees no more of it.
MAX_ASPECT = 16


def prepare(image: "Image.Image", card: Card) -> np.ndarray:
    """Return the model's input ``[H, W, 3]``, float32: shorter side resized, centre, normalised."""
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        keep = MAX_ASPECT * min(width, height)
        left, top = max(0, width - keep) // 2, max(0, height - keep) // 2
        image = image.crop((left, top, left + min(width, keep), top + min(height, keep)))
        width, height = image.size
    rows, columns = card.input_size[-2:]
    short = max(card.resize, rows, columns)
    scaled = tuple(max(short, int(short * side / min(width, height))) for side in (width, height))
    image = image.resize(scaled, pillow().Resampling[card.interpolation.upper()])
    left, top = round((scaled[0] - columns) / 2), round((scaled[1] - rows) / 2)
    x = np.asarray(image.crop((left, top, left + columns, top + rows)))
    mean, std, bgr = np.float32(card.mean), np.float32(card.std), card.channel_order == "BGR"
    if mean.max() > 1:  # of numbers from 0 to 255
        mean, std = mean / 255, std / 255
    return normalized(x, mean, std, bgr=bgr)
