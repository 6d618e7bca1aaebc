# SPDX-License-Identifier: Apache-2.0
"""Crops around the holes of an image: each hole whole in one of them, with context."""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.ndimage

BLOCK = 8  # pixels; holes in the same or neighbouring blocks are one hole
SIDE, CONTEXT = 512, 128  # of a crop and around its holes, at least, where memory allows
LEAST_SIDE, LEAST_CONTEXT = 256, 64  # where it does not
GRID = 64  # sides of crops are multiples of it, so that few programs are compiled

Box = tuple[int, int, int, int]  # top, left, bottom, right


@dataclasses.dataclass(frozen=True)
class Crop:
    """A part of an image, and the numbers of the holes that are filled in there."""

    box: Box
    holes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        top, left, bottom, right = self.box
        return bottom - top, right - left

    @property
    def window(self) -> tuple[slice, slice]:
        top, left, bottom, right = self.box
        return slice(top, bottom), slice(left, right)


class Holes:
    """The connected holes of a mask, ``bool [H, W]``, numbered from 1."""

    def __init__(self, missing: np.ndarray):
        self.size = np.array(missing.shape)
        rows, columns = (np.arange(0, n, BLOCK) for n in missing.shape)
        blocks = np.logical_or.reduceat(np.logical_or.reduceat(missing, rows, 0), columns, 1)
        self._numbers, count = scipy.ndimage.label(blocks, np.ones((3, 3)))
        found = scipy.ndimage.find_objects(self._numbers)
        edges = [[(s.start, s.stop) for s in slices] for slices in found]
        spans = np.array(edges, int).reshape(count, 2, 2).transpose(0, 2, 1).reshape(count, 4)
        self.spans = np.minimum(spans * BLOCK, np.tile(self.size, 2))

    def inside(self, crop: Crop) -> np.ndarray:
        """Return where the holes of a crop may be in it, ``bool [h, w]``: whole blocks."""
        top, left, bottom, right = crop.box
        blocks = np.arange(top, bottom) // BLOCK, np.arange(left, right) // BLOCK
        return np.isin(self._numbers[np.ix_(*blocks)], crop.holes)

    def crops(self, fits: Callable[[tuple[int, int]], bool]) -> list[Crop]:
        """Return crops that hold all holes, each of them whole in one.

        Around a hole is a quarter of its side, `CONTEXT` at least, so that less than half of a
        crop is missing, as in LaMa's training; no side is less than `SIDE`, where it was evaluated.
        ``fits`` tells which sizes of crops are possible: if need be context shrinks, down to
        `LEAST_CONTEXT`. Holes share a crop where that has no more pixels than their own ones.

        Raises:
          ValueError: not even the least crop around a hole fits.
        """
        groups: list[list[int]] = []
        spans, areas = np.zeros((0, 4), int), np.zeros(0, int)
        for number, span in enumerate(self.spans, start=1):
            area = self._sides(span).prod()
            low, high = np.minimum(spans[:, :2], span[:2]), np.maximum(spans[:, 2:], span[2:])
            together = np.concatenate([low, high], 1)
            sides = self._sides(together)
            gains = areas + area - sides.prod(1)
            best = int(gains.argmax()) if groups else 0
            if groups and gains[best] >= 0 and fits(tuple(map(int, sides[best]))):
                groups[best].append(number)
                spans[best], areas[best] = together[best], sides[best].prod()
            else:
                groups.append([number])
                spans, areas = np.concatenate([spans, span[None]]), np.append(areas, area)
        pairs = zip(spans, groups, strict=True)
        return [Crop(self._around(span, fits), tuple(holes)) for span, holes in pairs]

    def _sides(self, spans: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Return height and width of crops around ``[..., 4]``; at share 0 the least ones."""
        holes = spans[..., 2:] - spans[..., :2]
        wanted = np.maximum(holes + 2 * np.maximum(CONTEXT, holes // 4), SIDE)
        least = np.maximum(holes + 2 * LEAST_CONTEXT, LEAST_SIDE)
        sides = (least + share * (wanted - least)).astype(int)
        return np.minimum(-(-sides // GRID) * GRID, self.size)

    def _around(self, span: np.ndarray, fits) -> Box:
        for share in (1.0, 0.5, 0.0):
            sides = self._sides(span, share)
            if fits(tuple(map(int, sides))):
                break
        else:
            height, width = span[2:] - span[:2]
            raise ValueError(
                f"a hole of {height} x {width} pixels at row {span[0]}, column {span[1]} needs a "
                f"crop of {sides[0]} x {sides[1]} at least"
            )
        low = np.clip((span[:2] + span[2:] - sides) // 2, 0, self.size - sides)
        top, left, bottom, right = map(int, (*low, *(low + sides)))
        return top, left, bottom, right
