# SPDX-License-Identifier: Apache-2.0
"""Pictures of masks: class numbers with colours, and images tinted by their mask."""

from typing import TYPE_CHECKING

import numpy as np

from spectral_flax.inference.images import pillow

if TYPE_CHECKING:
    from PIL import Image

# Of Okabe and Ito, "Color universal design", 2008: told apart by the colour-blind too.
COLOURS = (
    *((0, 0, 0), (213, 94, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (230, 159, 0), (204, 121, 167)),
)


def palette(classes: int) -> np.ndarray:
    """Return a colour for each class, uint8 ``[classes, 3]``; class 0 is black, the ground."""
    rows = np.resize(np.uint8(COLOURS[1:]), (max(classes - 1, 0), 3))
    return np.concatenate([np.uint8(COLOURS[:1]), rows])[:classes]


def colour_mask(mask: np.ndarray) -> "Image.Image":
    """Return a mask of at most 256 classes as a picture whose pixels are the class numbers.

    Raises ValueError for a mask of more classes, or of other numbers.
    """
    if mask.ndim != 2 or mask.min() < 0 or mask.max() > 255:
        raise ValueError(f"mask has values {mask.min()} to {mask.max()}; expected 0 to 255")
    picture = pillow().fromarray(mask.astype(np.uint8)).convert("P")
    picture.putpalette(palette(256).tobytes())
    return picture


def overlay(image: np.ndarray, mask: np.ndarray) -> "Image.Image":
    """Return an image, uint8 ``[H, W, 3]``, tinted where its mask is not 0."""
    colours = palette(int(mask.max()) + 1)[mask]
    tinted = np.where(mask[..., None] > 0, 0.5 * image + 0.5 * colours, image)
    return pillow().fromarray(np.rint(tinted).astype(np.uint8))
