# SPDX-License-Identifier: Apache-2.0
"""A grid of images: one example a row, one titled column for each thing shown of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spectral_flax.files import new_file

SIDE = 192  # pixels of the shorter side, at least
MARGIN = 8


def write_image_grid(columns: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Write images ``uint8 [H, W, 3]`` of one size, as many in each titled column."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = next(iter(columns.values()))[0].shape[:2]
    scale = -(-SIDE // min(height, width))
    height, width = scale * height, scale * width
    title = 28
    rows = max(len(images) for images in columns.values())
    size = len(columns) * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + title
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for i, (name, images) in enumerate(columns.items()):
        left = MARGIN + i * (width + MARGIN)
        draw.text((left, 6), name, fill="black", font=font)
        for j, image in enumerate(images):
            large = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(large, (left, title + j * (height + MARGIN)))
    with new_file(path, overwrite=True) as draft:
        sheet.save(draft, format="PNG")
