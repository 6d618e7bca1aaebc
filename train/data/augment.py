# SPDX-License-Identifier: Apache-2.0
"""Decoded frames to arrays: a random view in training, fixed views in evaluation."""

import dataclasses
from typing import Literal

import numpy as np
from PIL import Image

from spectral_flax.inference.crops import Box, Size, centre, default_resize, five, three
from spectral_flax.models.record import Preprocessing
from train.config import Data
from train.data import crops
from train.data.colour import colour_jitter
from train.data.rand_augment import rand_augment

Frames = list[Image.Image]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random variation of a training example, the same for all frames of a clip."""

    size: Size
    data: Data

    def box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Draw the crop of an image."""
        data = self.data
        match data.crop:
            case "random_resized":
                return crops.random_resized(width, height, rng, data.scale, data.ratio)
            case "multi_scale":
                return crops.multi_scale(width, height, rng, self.size)
            case "short_side":
                return crops.random_short_side(width, height, rng, self.size, data.short_side)
            case _:
                short_side = data.resize or default_resize(self.size)
                return centre(width, height, self.size, short_side)[0]

    def __call__(self, frames: Frames, box: Box, rng: np.random.Generator) -> np.ndarray:
        """Cut ``box`` out and vary it: ``[N, H, W, 3]``."""
        data = self.data
        frames = _cut(frames, box, self.size)
        if data.flip is not False and rng.random() < 0.5:
            frames = [frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for frame in frames]
        if data.rand_augment:
            frames = rand_augment(frames, rng, data.rand_augment, data.magnitude)
        if any(data.colour_jitter):
            frames = colour_jitter(frames, rng, data.colour_jitter)
        return _ordered(frames, data)


@dataclasses.dataclass(frozen=True)
class Views:
    """The crops of a test example, in a fixed order."""

    size: Size
    kind: Literal["centre", "three", "ten"]
    data: Data

    @property
    def resize(self) -> int:
        """Length of the short side before crops are cut out."""
        return self.data.resize or default_resize(self.size)

    def preprocessing(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
        """Return how the central crop of an image is made and scaled."""
        return Preprocessing(
            input_size=self.size,
            resize=self.resize,
            mean=mean,
            std=std,
            channel_order=self.data.channels.upper(),
        )

    def __len__(self) -> int:
        return {"centre": 1, "three": 3, "ten": 10}[self.kind]

    def __call__(self, frames: Frames) -> np.ndarray:
        """Cut all crops out of all frames: ``[V, N, H, W, 3]``.

        Ten crops are four corners and the centre, then the same five mirrored.
        """
        choose = {"centre": centre, "three": three, "ten": five}[self.kind]
        boxes = choose(*frames[0].size, self.size, self.resize)
        views = np.stack([_ordered(_cut(frames, box, self.size), self.data) for box in boxes])
        return np.concatenate([views, views[..., ::-1, :]]) if self.kind == "ten" else views


def _cut(frames: Frames, box: Box, size: Size) -> Frames:
    return [frame.resize(size[::-1], Image.Resampling.BILINEAR, box) for frame in frames]


def _ordered(frames: Frames, data: Data) -> np.ndarray:
    pixels = np.stack([np.asarray(frame) for frame in frames])
    return np.ascontiguousarray(pixels[..., ::-1]) if data.channels == "bgr" else pixels
