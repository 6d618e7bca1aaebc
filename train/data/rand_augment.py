# SPDX-License-Identifier: Apache-2.0
"""RandAugment (Cubuk et al., NeurIPS 2020) on Pillow images; all frames of a clip alike."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, float], Image.Image]

MAXIMUM = 30
"""Magnitude at which the operations below have their full strength."""


def rand_augment(
    frames: list[Image.Image], rng: np.random.Generator, operations: int, magnitude: float
) -> list[Image.Image]:
    """Apply ``operations`` randomly chosen operations of one ``magnitude`` in [0, 30].

    Operations with a direction draw its sign. Pixels from outside the image are black.
    """
    names = list(OPERATIONS)
    for name in rng.choice(names, size=operations):
        operation, signed = OPERATIONS[name]
        strength = magnitude / MAXIMUM
        if signed and rng.random() < 0.5:
            strength = -strength
        frames = [operation(image, strength) for image in frames]
    return frames


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Move points of the image by ``matrix``, about its centre."""
    x, y = image.width / 2, image.height / 2
    a, b, c, d, e, f = matrix
    about = (a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y)
    method = Image.Transform.AFFINE
    return image.transform(image.size, method, about, Image.Resampling.BILINEAR)


def _enhanced(kind: type) -> Operation:
    return lambda image, s: kind(image).enhance(1 + 0.9 * s)


# Each takes the share of its greatest strength; True: to either side. Ranges as published.
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "identity": (lambda image, s: image, False),
    "shear_x": (lambda image, s: _affine(image, (1, 0.3 * s, 0, 0, 1, 0)), True),
    "shear_y": (lambda image, s: _affine(image, (1, 0, 0, 0.3 * s, 1, 0)), True),
    "translate_x": (
        lambda image, s: _affine(image, (1, 0, 150 / 331 * s * image.width, 0, 1, 0)),
        True,
    ),
    "translate_y": (
        lambda image, s: _affine(image, (1, 0, 0, 0, 1, 150 / 331 * s * image.height)),
        True,
    ),
    "rotate": (lambda image, s: image.rotate(30 * s, Image.Resampling.BILINEAR), True),
    "brightness": (_enhanced(ImageEnhance.Brightness), True),
    "colour": (_enhanced(ImageEnhance.Color), True),
    "contrast": (_enhanced(ImageEnhance.Contrast), True),
    "sharpness": (_enhanced(ImageEnhance.Sharpness), True),
    "posterize": (lambda image, s: ImageOps.posterize(image, 8 - round(4 * s)), False),
    "solarize": (lambda image, s: ImageOps.solarize(image, round(256 * (1 - s))), False),
    "auto_contrast": (lambda image, s: ImageOps.autocontrast(image), False),
    "equalize": (lambda image, s: ImageOps.equalize(image), False),
}
