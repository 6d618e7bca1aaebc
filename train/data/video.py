# SPDX-License-Identifier: Apache-2.0
"""Frames of video files by their number, and the clips that a network sees."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from train.data.augment import Augmentation, Views
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


class Video:
    """An open video file, whose frames are found by seeking to the key frame before them."""

    def __init__(self, file):
        import av

        self.container = av.open(file)
        try:
            if not self.container.streams.video:
                raise ValueError("no video stream")
            self.stream = self.container.streams.video[0]
            # Examples are read side by side already.
            self.stream.codec_context.thread_count = 1
            packets = [p for p in self.container.demux(self.stream) if p.size]
            self.times = sorted(p.pts for p in packets if p.pts is not None)
            self.keys = sorted(p.pts for p in packets if p.is_keyframe and p.pts is not None)
            if not packets:
                raise ValueError("no video frames")
            if len(self.times) < len(packets) or not self.keys:
                raise ValueError("frames without time stamps")
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_) -> None:
        self.container.close()

    def __len__(self) -> int:
        return len(self.times)

    def frames(self, indices: np.ndarray) -> dict[int, Image.Image]:
        """Decode the frames with these numbers.

        Frames at the end that the file announces but does not hold are the last one it does.
        """
        numbers = {time: number for number, time in enumerate(self.times)}
        wanted = sorted(set(int(i) for i in indices.flat))
        keys = np.asarray(self.keys)
        found, position, decoder, last = {}, None, None, None
        for index in wanted:
            time = self.times[index]
            key = keys[max(np.searchsorted(keys, time, "right") - 1, 0)]
            if position is None or key > position:  # a jump spares frames in between
                self.container.seek(int(key), stream=self.stream)
                decoder = self.container.decode(self.stream)
                position = None
            while position is None or position < time:
                frame = next(decoder, None)
                if frame is None:
                    break
                if frame.pts in numbers:
                    position, last = frame.pts, frame
            if last is None:
                raise ValueError("no frame can be decoded")
            found[index] = last.to_image()
        return found


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
