# SPDX-License-Identifier: Apache-2.0
"""Which frames of a video make up the clips that a model sees."""

from collections.abc import Sequence

import numpy as np


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
