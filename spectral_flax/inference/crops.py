# SPDX-License-Identifier: Apache-2.0
"""Fixed crops of test images, as boxes in the coordinates of the original image.

The image is resized so that its short side has a given length, sides rounded down, and crops are
cut out at whole pixels: what resizing and then cropping do, and the published models saw. As one
box that is resampled once, so that no pixel is computed to be thrown away.
A box is (left, top, right, bottom) as Pillow has it. Sizes of crops are (height, width).
"""

from fractions import Fraction

Box = tuple[float, float, float, float]
Size = tuple[int, int]

CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))
CENTRE = (Fraction(1, 2), Fraction(1, 2))


def centre(width: int, height: int, size: Size, short_side: int) -> list[Box]:
    """Return the one central crop of ``size`` after resizing to ``short_side``."""
    return _boxes(width, height, size, short_side, [CENTRE])


def three(width: int, height: int, size: Size, short_side: int) -> list[Box]:
    """Return crops at both ends and in the middle of the longer side."""
    half = Fraction(1, 2)
    places = [(p, half) if width >= height else (half, p) for p in (0, half, 1)]
    return _boxes(width, height, size, short_side, places)


def five(width: int, height: int, size: Size, short_side: int) -> list[Box]:
    """Return the four corners and the centre."""
    return _boxes(width, height, size, short_side, [*CORNERS, CENTRE])


def default_resize(size: Size) -> int:
    """Return the short side that goes with a central crop of ``size``: 256 for 224."""
    return round(max(size) * 256 / 224)


def _boxes(width: int, height: int, size: Size, short_side: int, places) -> list[Box]:
    """Return boxes of ``size`` at places from 0 to 1 along the free width and height.

    An image that would be too small for the crop grows further.
    """
    rows, columns = size
    growth = max(
        Fraction(short_side, min(width, height)), Fraction(rows, height), Fraction(columns, width)
    )
    scaled = int(width * growth), int(height * growth)
    x, y = width / scaled[0], height / scaled[1]
    boxes = []
    for across, down in places:
        left, top = round(across * (scaled[0] - columns)), round(down * (scaled[1] - rows))
        right, bottom = (left + columns) * x, (top + rows) * y
        # Rounding must not push a box over the edge.
        boxes.append((left * x, top * y, min(right, width), min(bottom, height)))
    return boxes
