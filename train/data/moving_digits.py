# SPDX-License-Identifier: Apache-2.0
"""Moving handwritten digits: videos whose label depends on the order of the frames."""

import dataclasses

import numpy as np

from train.config import Data
from train.data.arrays import mnist5k
from train.data.source import Example, Source, Split
from train.errors import UserError

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""Steps along (height, width): right, left, down, up."""

SPEEDS = (1, 2, 3)
"""Pixels a frame."""


@dataclasses.dataclass(frozen=True, eq=False)
class MovingDigits(Source):
    """Clips ``uint8 [T, H, W, 1]`` with label ``4 * digit + direction``: 4000, and 1000 to test.

    The frame is a torus: a digit that leaves it on one side enters on the other, and a clip starts
    anywhere. A clip played backwards is thus a clip of the opposite direction, equally likely. A
    model that ignores the order of frames gets the direction right at most half of the time: the
    set of frames shows the axis of the motion, not its sense.
    """

    split: Split
    frames: int
    size: tuple[int, int]
    num_classes: int = 10 * len(DIRECTIONS)
    mean: tuple[float, ...] = (0.1,)
    std: tuple[float, ...] = (0.28,)
    digits: np.ndarray = dataclasses.field(init=False, repr=False)
    labels: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        still = mnist5k(self.split)
        digits = np.zeros((len(still), *self.size), np.uint8)
        digits[:, : still.image_shape[0], : still.image_shape[1]] = still.images[..., 0]
        object.__setattr__(self, "digits", digits)
        object.__setattr__(self, "labels", still.labels.astype(np.int32))

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (self.frames, *self.size, 1)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng([self.split == "train", index])
        direction = int(rng.integers(len(DIRECTIONS)))
        velocity = np.array(DIRECTIONS[direction]) * rng.choice(SPEEDS)
        start = rng.integers(0, self.size)
        places = start + velocity * np.arange(self.frames)[:, None]
        clip = np.stack([np.roll(self.digits[index], place, (0, 1)) for place in places])
        label = len(DIRECTIONS) * self.labels[index] + direction
        return {"image": clip[..., None], "label": np.int32(label)}

    def augment(self, example: Example, rng: np.random.Generator) -> Example:
        """Let the clip start elsewhere."""
        start = rng.integers(0, self.size)
        return example | {"image": np.roll(example["image"], start, (1, 2))}


def moving_digits(split: Split, data: Data) -> MovingDigits:
    """Open the data set; ``data`` may say how many frames there are and how large."""
    size = data.size or (32, 32)
    if min(size) < 28:
        raise UserError(f"--data.size is {size}; digits need at least 28 28")
    return MovingDigits(split, data.frames, tuple(size))
