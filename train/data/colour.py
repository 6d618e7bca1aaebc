# SPDX-License-Identifier: Apache-2.0
"""Colour jitter on Pillow images; all frames of a clip are changed alike."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

Frames = list[Image.Image]


def colour_jitter(
    frames: Frames, rng: np.random.Generator, strength: tuple[float, float, float, float]
) -> Frames:
    """Change brightness, contrast, saturation and hue in random order.

    ``strength`` is how far each goes: factors are uniform in [1 - s, 1 + s] for the first three,
    the hue turns by at most s (in turns). Howard, 2013.
    """
    changes = [
        lambda factor: _enhance(ImageEnhance.Brightness, factor),
        lambda factor: _enhance(ImageEnhance.Contrast, factor),
        lambda factor: _enhance(ImageEnhance.Color, factor),
        lambda factor: lambda image: turn_hue(image, factor - 1),
    ]
    for i in rng.permutation(4):
        if strength[i]:
            change = changes[i](rng.uniform(max(0, 1 - strength[i]), 1 + strength[i]))
            frames = [change(image) for image in frames]
    return frames


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn the hue of an RGB image by ``turn`` of the whole circle."""
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int32) + round(turn * 256)) % 256
    hue = Image.fromarray(turned.astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _enhance(kind: type, factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: kind(image).enhance(factor)
