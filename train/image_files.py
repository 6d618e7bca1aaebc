# SPDX-License-Identifier: Apache-2.0
"""Image files as training examples: of 8 bits a channel, upright, and faults named."""

from pathlib import Path
from typing import TYPE_CHECKING

from spectral_flax.inpainting import read_image
from train.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


def read(path: Path, mode: str = "RGB") -> "Image.Image":
    """Return the image in a mode of Pillow; transparency is dropped.

    Raises:
      UserError: the file is no image, or has more than 8 bits a channel.
    """
    try:
        return read_image(path).convert(mode)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
