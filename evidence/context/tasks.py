# SPDX-License-Identifier: Apache-2.0
"""Tasks on small images and clips, most of which no local network can solve.

A position of the plain network sees `REACH` pixels (see `networks`). What a task has to compare
lies so far apart, and so far from the border, whose padding would tell where a window is, that no
window sees two such things, or one and the border. The classes then differ in nothing but which
windows occur together, and where.

- digits: which digit is it? What is around it does not help.
- same_different: are two digits, of the kinds 0, 1 and 7, of the same kind? A local network adds a
  score of each, and is right `ADDITIVE_KINDS` of the time at best, whatever its scores: it calls
  every pair alike both of whose scores are positive.
- mirror: are a digit and its mirror image at the same height? Both classes have the same windows;
  whatever forgets where they are is right half of the time, attention by content alone as well.
- contour: two contours, one with a gap in its middle; is the one whose ends are marked whole? The
  windows are the same again where no window sees both an end and the gap.
- repeat: a digit moves in one of four directions, pauses for longer than the network sees in time,
  and moves again: the same way? Scores that are added are right `ADDITIVE_DIRECTIONS` of the time.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from train.data.arrays import mnist5k
from train.data.moving_digits import DIRECTIONS

Examples = tuple[np.ndarray, np.ndarray]
"""Images ``uint8 [N, H, W, 1]``, or clips ``[N, T, H, W, 1]``, and classes ``int32 [N]``."""

SIZE, DIGIT, REACH = 80, 10, 21
FAR = REACH - 1  # no window sees two things that are so many pixels apart
LEFT, RIGHT = FAR, SIZE - FAR - DIGIT
KINDS = (0, 1, 7)
LENGTHS = (20, 36, 52, 68)
LONG = LENGTHS[-1]  # no window sees an end and the gap
LANES = (FAR + 4, SIZE - FAR - 6)
GAP, MARK = 6, 3

FRAMES, CLIP_SIZE, MOVES, SPEED, REACH_IN_TIME = 20, 24, 4, 2, 5


def additive_bound(kinds: int) -> float:
    """Return how often a sum of two scores can say whether two of so many kinds are the same.

    Of k kinds with a positive score it calls alike k / kinds of the pairs that are, and at least
    k (k - 1) / (kinds (kinds - 1)) of those that are not. Both are half of the pairs.
    """
    gains = [k / kinds - k * (k - 1) / (kinds * (kinds - 1)) for k in range(kinds + 1)]
    return 0.5 + max(gains) / 2


ADDITIVE_KINDS = additive_bound(len(KINDS))
ADDITIVE_DIRECTIONS = additive_bound(len(DIRECTIONS))


def small_digits(split: str) -> Examples:
    """Return handwritten digits at half their size, ``uint8 [N, 10, 10]``, and which they are."""
    still = mnist5k(split)
    pairs = still.images[:, 4:-4, 4:-4, 0].reshape(-1, DIGIT, 2, DIGIT, 2)
    return pairs.mean((2, 4)).astype(np.uint8), still.labels


def digits(split: str, count: int, rng: np.random.Generator) -> Examples:
    pictures, classes = small_digits(split)
    chosen = rng.integers(0, len(pictures), count)
    images = _blank(count)
    for image, i, (y, x) in zip(images, chosen, _heights((count, 2), rng), strict=True):
        _paste(image, pictures[i], y, x)
    return images[..., None], classes[chosen].astype(np.int32)


def same_different(split: str, count: int, rng: np.random.Generator) -> Examples:
    pictures, classes = small_digits(split)
    of_kind = [np.flatnonzero(classes == kind) for kind in KINDS]
    labels = rng.integers(0, 2, count, dtype=np.int32)
    first = rng.integers(0, len(KINDS), count)
    second = np.where(labels, first, (first + rng.integers(1, len(KINDS), count)) % len(KINDS))
    images = _blank(count)
    for image, a, b, (y, z) in zip(images, first, second, _heights((count, 2), rng), strict=True):
        _paste(image, pictures[rng.choice(of_kind[a])], y, LEFT)
        _paste(image, pictures[rng.choice(of_kind[b])], z, RIGHT)
    return images[..., None], labels


def mirror(split: str, count: int, rng: np.random.Generator) -> Examples:
    pictures, _ = small_digits(split)
    labels = rng.integers(0, 2, count, dtype=np.int32)
    heights = _heights((count,), rng)
    span = SIZE - 2 * FAR - DIGIT + 1
    moved = FAR + (heights - FAR + rng.integers(4, span - 3, count)) % span  # 4 pixels at least
    images = _blank(count)
    for image, y, z in zip(images, heights, np.where(labels, heights, moved), strict=True):
        digit = rng.choice(pictures)
        _paste(image, digit, y, LEFT)
        _paste(image, digit[:, ::-1], z, RIGHT)
    return images[..., None], labels


def contour(
    split: str, count: int, rng: np.random.Generator, lengths: tuple[int, ...] = LENGTHS
) -> Examples:
    """Contours have one of ``lengths``; both splits are drawn from the same distribution."""
    labels = rng.integers(0, 2, count, dtype=np.int32)
    images = _blank(count)
    for image, whole, marked in zip(images, labels, rng.integers(0, 2, count), strict=True):
        length = rng.choice(lengths)
        start = (SIZE - length) // 2 + rng.integers(-2, 3)
        broken = 1 - marked if whole else marked
        for lane, height in enumerate(LANES):
            path = height + rng.integers(-1, 2) + _wave(length, rng)
            for thickness in (0, 1):
                image[path + thickness, start + np.arange(length)] = 255
            if lane == broken:
                left = start + (length - GAP) // 2
                image[height - 6 : height + 8, left : left + GAP] = 0
            if lane == marked:
                for end in (0, length - 1):
                    y, x = path[end], start + end
                    image[y - MARK : y + MARK + 2, max(x - MARK, 0) : x + MARK + 1] = 255
    return images[..., None], labels


def repeat(split: str, count: int, rng: np.random.Generator) -> Examples:
    """The frame is a torus, and a clip begins anywhere in it."""
    pictures, _ = small_digits(split)
    labels = rng.integers(0, 2, count, dtype=np.int32)
    first = rng.integers(0, len(DIRECTIONS), count)
    other = (first + rng.integers(1, len(DIRECTIONS), count)) % len(DIRECTIONS)
    second = np.where(labels, first, other)
    still = np.zeros((REACH_IN_TIME - 1, 2), int)
    clips = np.zeros((count, FRAMES, CLIP_SIZE, CLIP_SIZE), np.uint8)
    for clip, a, b in zip(clips, first, second, strict=True):
        moves = [np.tile(SPEED * np.array(DIRECTIONS[d]), (MOVES, 1)) for d in (a, b)]
        places = np.cumsum(np.concatenate([still, moves[0], still, moves[1], still]), axis=0)
        places += rng.integers(0, CLIP_SIZE, 2)
        frame = np.zeros((CLIP_SIZE, CLIP_SIZE), np.uint8)
        _paste(frame, rng.choice(pictures), 0, 0)
        clip[:] = [np.roll(frame, place, (0, 1)) for place in places]
    return clips[..., None], labels


@dataclasses.dataclass(frozen=True)
class Task:
    """A task and how long a network learns it."""

    name: str
    examples: Callable[..., Examples]
    chance: float
    bound: float
    steps: int
    batch: int = 64
    rank: int = 2


TASKS = {
    task.name: task
    for task in (
        Task("digits", digits, chance=0.1, bound=1.0, steps=220),
        Task("same_different", same_different, chance=0.5, bound=ADDITIVE_KINDS, steps=300),
        Task("mirror", mirror, chance=0.5, bound=0.5, steps=80),
        Task("contour", contour, chance=0.5, bound=0.5, steps=220),
        Task("repeat", repeat, 0.5, ADDITIVE_DIRECTIONS, steps=400, batch=16, rank=3),
    )
}


def _blank(count: int) -> np.ndarray:
    return np.zeros((count, SIZE, SIZE), np.uint8)


def _heights(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return places of digits along an axis that are far from the border."""
    return rng.integers(FAR, SIZE - FAR - DIGIT + 1, shape)


def _paste(image: np.ndarray, digit: np.ndarray, y: int, x: int) -> None:
    image[y : y + DIGIT, x : x + DIGIT] = digit


def _wave(length: int, rng: np.random.Generator) -> np.ndarray:
    """Return the heights of a smooth contour, at most 3 pixels from its lane."""
    phases = np.arange(length)[:, None] / (17, 29) + rng.random(2)
    return np.round((rng.uniform(0.75, 1.5, 2) * np.sin(2 * np.pi * phases)).sum(-1)).astype(int)
