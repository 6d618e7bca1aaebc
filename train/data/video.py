# SPDX-License-Identifier: Apache-2.0
"""Frames of video files by their number, and the clips that a network sees."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from train.data.augment import Augmentation, Views
from train.data.video_file import Video
from train.errors import UserError


def clip_indices(
    count: int, frames: int, stride: int, starts: Sequence[float], segments: int = 1
) -> np.ndarray:
    """Frame numbers of clips in a video of ``count`` frames: ``[len(starts), segments, frames]``.

    The places where a clip can start are cut into ``segments`` equal parts; ``starts`` are
    positions in [0, 1) within a part. A video that is too short repeats its last frame.
    """
    places = max(count - (frames - 1) * stride, 1)
    part = (np.arange(segments)[None] + np.asarray(starts)[:, None]) / segments
    first = np.floor(part * places).astype(np.int64)
    return np.minimum(first[..., None] + stride * np.arange(frames), count - 1)


def uniform_starts(clips: int) -> np.ndarray:
    """Return the centres of ``clips`` equal parts of [0, 1)."""
    return (np.arange(clips) + 0.5) / clips


def require_pyav() -> None:
    """Raise a UserError if the library that decodes videos is missing."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError("videos need PyAV: pip install 'spectral-flax[video]'") from error


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

    @property
    def shape(self) -> tuple[int, ...]:
        segments = (self.segments,) if self.segments > 1 else ()
        return (*segments, self.frames, *(self.augmentation or self.views).size, 3)

    @property
    def view_count(self) -> int:
        return 1 if self.augmentation else self.clips * len(self.views)

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
        return clip_indices(len(video), self.frames, self.stride, starts, self.segments)
