# SPDX-License-Identifier: Apache-2.0
"""Image files as inputs of a model, prepared as its card says."""

import os

import numpy as np

from spectral_flax.models.registry import Card

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise ImportError("reading images needs Pillow: pip install pillow") from error

# A thin strip is cut to this ratio of its sides before it is resized; the crop sees no more of it.
MAX_ASPECT = 16
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_image(path: str | os.PathLike) -> Image.Image:
    """Return the image at ``path`` as 8-bit RGB, upright, whatever its mode.

    Grey is repeated, transparency laid on white, 16 bits scaled to 8. Raises ValueError, naming
    the file, if it is not an image.
    """
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I") or image.mode == "F":
                image = _to_eight_bits(image)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} can not be read as an image: {error}") from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, np.float64)
    # An "I" image holds 16 bits in 32; a float image has its range in its values.
    top = 65535.0 if image.mode.startswith("I") else max(values.max(initial=0.0), 1.0)
    return Image.fromarray((np.clip(values / top, 0, 1) * 255).round().astype(np.uint8))


def prepare(image: Image.Image, card: Card) -> np.ndarray:
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
    image = image.resize(scaled, INTERPOLATIONS[card.interpolation])
    left, top = round((scaled[0] - columns) / 2), round((scaled[1] - rows) / 2)
    image = image.crop((left, top, left + columns, top + rows))
    x = np.asarray(image, np.float32)
    if max(card.mean) <= 1:  # a mean beyond 1 is that of numbers from 0 to 255
        x = x / 255
    if card.channel_order == "BGR":
        x = x[..., ::-1]
    return (x - np.float32(card.mean)) / np.float32(card.std)
