# SPDX-License-Identifier: Apache-2.0
"""Random masks, by the rules of the published LaMa code: thick strokes and boxes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strokes:
    """Broken lines. Angles are in radians, from 0.01 in whole steps; every second line is mirrored.

    As published, there may be one line more than ``max_times``.
    """

    max_angle: int = 4
    max_length: int = 200
    max_width: int = 100
    min_times: int = 1
    max_times: int = 5

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        for i in range(rng.integers(self.min_times, self.max_times + 2)):
            x, y = rng.integers(width), rng.integers(height)
            for _ in range(1 + rng.integers(5)):
                angle = 0.01 + rng.integers(self.max_angle)
                if i % 2 == 0:
                    angle = 2 * np.pi - angle
                length = 10 + rng.integers(self.max_length)
                brush = 5 + rng.integers(self.max_width)
                end_x = int(np.clip(x + length * np.sin(angle), 0, width))
                end_y = int(np.clip(y + length * np.cos(angle), 0, height))
                _draw_line(mask, (x, y), (end_x, end_y), brush)
                x, y = end_x, end_y
        return mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes:
    """Axis-parallel boxes at least ``margin`` pixels from the border."""

    margin: int = 10
    min_size: int = 30
    max_size: int = 150
    min_times: int = 1
    max_times: int = 4

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        largest = min(self.max_size, height - 2 * self.margin, width - 2 * self.margin)
        if largest < self.min_size:
            raise ValueError(
                f"boxes of {self.min_size} pixels, {self.margin} from the border, do not fit into "
                f"{height}x{width}"
            )
        for _ in range(rng.integers(self.min_times, self.max_times + 1)):
            h, w = rng.integers(self.min_size, largest + 1, size=2)
            top = rng.integers(self.margin, height - self.margin - h + 1)
            left = rng.integers(self.margin, width - self.margin - w + 1)
            mask[top : top + h, left : left + w] = True
        return mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed:
    """Strokes or boxes, at random; the defaults are those of the published training.

    ``scale`` shrinks all lengths, for images smaller than the 256 pixels they are meant for.
    """

    strokes: Strokes = Strokes()
    boxes: Boxes = Boxes()
    box_share: float = 0.5
    max_area: float = 1.0

    def __call__(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Return a mask: ``bool [height, width]``, True where the image is missing, never empty.

        Masks of more than ``max_area`` of the image are drawn again, at most a hundred times.
        """
        for _ in range(100):
            kind = self.boxes if rng.random() < self.box_share else self.strokes
            mask = kind(height, width, rng)
            if mask.any() and mask.mean() <= self.max_area:
                return mask
        raise ValueError(f"no mask of at most {self.max_area} of {height}x{width} in 100 draws")


def scaled(side: int) -> Mixed:
    """Return the published masks for images of 256 pixels, shrunk to ``side``."""
    shrink = lambda pixels: max(1, round(pixels * side / 256))
    return Mixed(
        strokes=Strokes(max_length=shrink(200), max_width=shrink(100)),
        boxes=Boxes(margin=shrink(10), min_size=shrink(30), max_size=shrink(150)),
    )


_BOXES_OF_ALL = 0.3 / 1.3  # weights of 1 for strokes and 0.3 for boxes


def _evaluated(strokes: Strokes, boxes: Boxes | None = None) -> Mixed:
    share = 0.0 if boxes is None else _BOXES_OF_ALL
    return Mixed(strokes=strokes, boxes=boxes or Boxes(), box_share=share, max_area=0.5)


_THIN = Strokes(max_length=40, max_width=10, min_times=4, max_times=50)
_MEDIUM = Strokes(max_length=100, max_width=50, min_times=4, max_times=5)
_THIN_512 = Strokes(max_length=100, max_width=20, min_times=4, max_times=70)
_MEDIUM_512 = Strokes(max_length=200, max_width=100, min_times=4, max_times=10)
_SMALL_BOXES = Boxes(margin=0, min_size=10, max_size=50, max_times=5)

# Those of the published evaluation, by name, with the side of the images they are meant for.
EVALUATION: dict[str, tuple[int, Mixed]] = {
    "thin_256": (256, _evaluated(_THIN)),
    "medium_256": (256, _evaluated(_MEDIUM, _SMALL_BOXES)),
    "thick_256": (256, _evaluated(Strokes(), Boxes(max_times=3))),
    "thin_512": (512, _evaluated(_THIN_512)),
    "medium_512": (512, _evaluated(_MEDIUM_512, Boxes(margin=0, max_times=5))),
    "thick_512": (512, _evaluated(Strokes(max_length=450, max_width=250), Boxes(max_size=300))),
}


def _draw_line(mask: np.ndarray, start, end, brush: int) -> None:
    """Add the pixels within ``brush / 2`` of a segment, its ends round."""
    (x0, y0), (x1, y1), reach = start, end, brush // 2 + 1
    top, left = max(min(y0, y1) - reach, 0), max(min(x0, x1) - reach, 0)
    part = mask[top : max(y0, y1) + reach + 1, left : max(x0, x1) + reach + 1]
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    dx, dy, x, y = x1 - x0, y1 - y0, x + (left - x0), y + (top - y0)
    along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1), 0, 1)
    part |= (x - along * dx) ** 2 + (y - along * dy) ** 2 <= (brush / 2) ** 2
