# SPDX-License-Identifier: Apache-2.0
"""Frames of video files by their number, and the clips that a network sees."""

import dataclasses

import numpy as np

from spectral_flax.inference.clips import clip_indices, uniform_starts
from spectral_flax.inference.video_file import Video
from spectral_flax.models.record import Preprocessing, Sampling
from train.data.augment import Augmentation, Views


@dataclasses.dataclass(frozen=True)
class ClipReader:
    """A video file in, one or more clips ``[T, H, W, 3]`` out.

    The axes in front are [views, segments], each only where there is more than one.
    """

    augmentation: Augmentation | None
    views: Views
    frames: int
    stride: int
    segments: int
    clips: int
    sampling: Sampling = "dense"

    @property
    def shape(self) -> tuple[int, ...]:
        segments = (self.segments,) if self.segments > 1 else ()
        return (*segments, self.frames, *(self.augmentation or self.views).size, 3)

    @property
    def view_count(self) -> int:
        return 1 if self.augmentation else self.clips * len(self.views)

    def preprocessing(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
        return dataclasses.replace(
            self.views.preprocessing(mean, std),
            input_size=(self.frames, *self.views.size),
            stride=self.stride,
            sampling=self.sampling,
            segments=self.segments,
        )

    def __call__(self, file, rng: np.random.Generator | None) -> np.ndarray:
        """Read one file; ``rng`` is what varies a training example, None in a test."""
        with Video(file) as video:
            if self.augmentation is None:
                return self._test(video)
            # One draw a segment, as if each were a clip of its own.
            starts = rng.random(self.segments)
            indices = np.concatenate(
                [self._indices(video, [u])[:, s] for s, u in enumerate(starts)]
            )
            images = video.frames(indices)
        ordered = [images[i] for i in indices.flat]
        box = self.augmentation.box(*ordered[0].size, rng)
        return self.augmentation(ordered, box, rng).reshape(self.shape)

    def _test(self, video: Video) -> np.ndarray:
        indices = self._indices(video, uniform_starts(self.clips))
        images = video.frames(indices)
        distinct = sorted(images)
        views = self.views([images[i] for i in distinct])
        # [crop, clip, segment, frame, ...] with the clip in front
        pixels = np.moveaxis(views[:, np.searchsorted(distinct, indices)], 0, 1)
        leading = (self.view_count,) if self.view_count > 1 else ()
        return pixels.reshape(*leading, *self.shape)

    def _indices(self, video: Video, starts) -> np.ndarray:
        clip = (self.frames, self.stride, starts, self.segments)
        return clip_indices(len(video), *clip, sampling=self.sampling)
