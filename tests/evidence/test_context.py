# SPDX-License-Identifier: Apache-2.0
"""Tasks where context decides: what they promise of their windows, and what networks see."""

import itertools

import numpy as np
import pytest
from flax import nnx

from evidence.context import tasks
from evidence.context.networks import NETWORKS
from evidence.context.report import costs, summarise
from spectral_flax.analysis.receptive_field import receptive_field


def drawn(name, count=64, seed=0):
    images, labels = tasks.TASKS[name].examples("test", count, np.random.default_rng(seed))
    return images[..., 0], labels


def extent(mask):
    """Return the first and the last index that holds anything."""
    found = np.flatnonzero(mask)
    return found[0], found[-1]


@pytest.mark.parametrize("name", ["digits", "same_different", "mirror"])
def test_digits_are_out_of_each_others_and_the_borders_windows(name):
    for image in drawn(name)[0]:
        for axis in (0, 1):
            first, last = extent(image.any(axis))
            assert first >= tasks.FAR and last < tasks.SIZE - tasks.FAR
        if name != "digits":
            between = image[:, tasks.LEFT + tasks.DIGIT : tasks.RIGHT]
            assert between.shape[1] >= tasks.FAR and not between.any()


def test_mirror_has_the_same_windows_in_both_classes():
    images, labels = drawn("mirror", 400)
    left, right = images[:, :, : tasks.SIZE // 2], images[:, :, : tasks.SIZE // 2 - 1 : -1]
    for one, other, label in zip(left, right, labels, strict=True):
        (a, _), (b, _) = extent(one.any(1)), extent(other.any(1))
        assert (a == b) == bool(label)
        np.testing.assert_array_equal(np.roll(one, b - a, axis=0), other)
    tops = np.array([extent(one.any(1))[0] for one in left])
    assert abs(tops[labels == 0].mean() - tops[labels == 1].mean()) < 3


@pytest.mark.parametrize("length", tasks.LENGTHS)
def test_contours_show_one_gap_and_two_marks_whatever_the_class(length):
    images, labels = tasks.contour("test", 40, np.random.default_rng(0), (length,))
    assert set(labels) == {0, 1}
    half = tasks.SIZE // 2
    for image, label in zip(images[..., 0], labels, strict=True):
        lanes = image[:half], image[half:]
        thick = [(lane > 0).sum(0).max() > 4 for lane in lanes]
        broken = [np.diff(np.flatnonzero(lane.any(0))).max() > 1 for lane in lanes]
        assert sum(thick) == sum(broken) == 1
        assert (thick == broken) == (not label)
        marks = np.flatnonzero((lanes[thick.index(True)] > 0).sum(0) > 4)
        left, right = extent(lanes[broken.index(True)].any(0))
        gap = left + np.flatnonzero(~lanes[broken.index(True)].any(0)[left:right])
        between = np.abs(np.subtract.outer(marks, gap)).min() - 1
        assert length != tasks.LONG or between >= tasks.FAR
        (_, top), (bottom, _) = (extent(lane.any(1)) for lane in lanes)
        assert bottom + half - top > tasks.FAR // 2


def test_a_clip_repeats_its_motion_or_not():
    clips, labels = drawn("repeat", 20)
    quiet = tasks.REACH_IN_TIME - 1
    for clip, label in zip(clips, labels, strict=True):
        changes = [not np.array_equal(a, b) for a, b in itertools.pairwise(clip)]
        move, still = [True] * tasks.MOVES, [False] * quiet
        assert changes == [*still[1:], *move, *still, *move, *still][: len(changes)]
        spots = np.stack([clip[i] for i in (quiet - 1, quiet, 2 * quiet + tasks.MOVES - 1)])
        first = shift_between(spots[0], spots[1])
        begin = quiet + tasks.MOVES + quiet - 1
        assert (first == shift_between(clip[begin], clip[begin + 1])) == bool(label)


def shift_between(before, after):
    """Return which shift of a torus makes one frame the other."""
    moves = [tuple(tasks.SPEED * np.array(d)) for d in tasks.DIRECTIONS]
    return next(m for m in moves if np.array_equal(np.roll(before, m, (0, 1)), after))


@pytest.mark.parametrize("kinds", [2, 3, 4])
def test_no_added_scores_beat_the_bound(kinds):
    best, alike = 0.0, np.eye(kinds, dtype=bool)
    for scores in itertools.product(np.linspace(-2, 2, 9), repeat=kinds):
        called = np.add.outer(scores, scores) > 1e-9
        best = max(best, (called[alike].mean() + (~called)[~alike].mean()) / 2)
    assert best == pytest.approx(tasks.additive_bound(kinds))


@pytest.mark.parametrize(
    ("name", "reach"), [("plain", tasks.REACH), ("dilated", tasks.REACH + 8), ("ffc", tasks.SIZE)]
)
def test_a_network_sees_as_far_as_said(name, reach):
    images = np.random.default_rng(0).normal(size=(1, tasks.SIZE, tasks.SIZE, 1))
    model = NETWORKS[name].build(seed=0)
    field = receptive_field(model, images.astype(np.float32), draws=1)
    first, last = extent(field.sum(0) > 1e-12)
    assert last - first < reach and (name != "ffc" or last - first > 2 * tasks.REACH)


def test_networks_cost_about_the_same():  # the table of the report has all of them
    adds = [cost[0] for cost in costs(["plain", "nl", "srl_fft_gate"]).values()]
    np.testing.assert_allclose(adds, adds[0], rtol=0.2)


def test_a_summary_has_mean_deviation_and_distance_from_the_bound():
    results = [
        dict(network="nl", task="mirror", seed=s, accuracy=a, by_length={}, loss=0.1, seconds=9.0)
        for s, a in enumerate((0.8, 0.9, 1.0))
    ]
    (row,) = summarise(results)
    assert (row.mean, row.deviation) == (pytest.approx(0.9), pytest.approx(0.1))
    assert row.above == pytest.approx((0.9 - 0.5) / 0.1)


def test_an_ffc_network_without_exchange_still_splits_and_joins_its_map():
    stage1, stage2 = NETWORKS["ffc_neither"].build(seed=0).stages
    middle = stage1[0].conv2.conv
    assert middle.local_to_global is None and middle.global_to_global is not None
    assert stage1[0].conv1.conv.local_to_global is not None
    assert stage2[0].conv1.conv.to_local.in_features == stage2[0].conv1.conv.in_features
    assert all(isinstance(block, nnx.Module) for block in (*stage1, *stage2))
