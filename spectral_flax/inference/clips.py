# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video make up the clips that a model sees."""

from collections.abc import Sequence

import numpy as np

from spectral_flax.models.record import Sampling


def clip_indices(
    count: int,
    frames: int,
    stride: int,
    starts: Sequence[float],
    segments: int = 1,
    sampling: Sampling = "dense",
) -> np.ndarray:
    """Frame numbers of clips in a video of ``count`` frames: ``[len(starts), segments, frames]``.

    Dense: the places where a clip of every ``stride``-th frame can start are cut into ``segments``
    equal parts; ``starts`` are positions in [0, 1) within a part. A video that is too short repeats
    its last frame. Uniform: the video is cut into ``segments * frames`` equal parts, each of which
    gives one frame, that at ``starts`` (Wang et al., "Temporal Segment Networks", ECCV 2016).

    Raises:
      ValueError: uniform, and the video has fewer frames than parts.
    """
    if sampling == "uniform":
        parts = segments * frames
        if count < parts:
            raise ValueError(f"the video has {count} frames, fewer than the {parts} segments")
        place = np.arange(parts)[None] + np.asarray(starts)[:, None]
        found = np.floor(place * (count / parts)).astype(np.int64)
        return np.minimum(found, count - 1).reshape(-1, segments, frames)
    places = max(count - (frames - 1) * stride, 1)
    part = (np.arange(segments)[None] + np.asarray(starts)[:, None]) / segments
    first = np.floor(part * places).astype(np.int64)
    return np.minimum(first[..., None] + stride * np.arange(frames), count - 1)


def uniform_starts(clips: int) -> np.ndarray:
    """Return the centres of ``clips`` equal parts of [0, 1)."""
    return (np.arange(clips) + 0.5) / clips
