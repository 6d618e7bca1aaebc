"""The statistic of borders, on pictures whose borders are known."""

import numpy as np
import pytest

pytest.importorskip("PIL")
from evidence.large_pictures import at_grid, holes, large, steps


def test_a_step_at_the_border_of_a_hole_shows():
    ramp = np.tile(np.arange(64.0)[:, None, None], (1, 64, 3))
    hole = np.zeros((64, 64), bool)
    hole[20:40, 20:40] = True
    across, within = steps(ramp, hole)
    # Of four sides two have a step of one, and of neighbours within every second pair.
    assert (across, within) == pytest.approx((0.5, 0.5))
    assert steps(ramp + 50 * hole[..., None], hole) == pytest.approx((50, 0.5), abs=1)


def test_a_large_picture_has_no_step_where_its_parts_meet():
    half = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    image = large(half, 32)
    assert image.shape == (32, 32, 3)
    assert (image[4] == image[5]).all() and (image[:, 3] == image[:, 4]).all()


def test_holes_are_apart():
    mask = holes(2048)
    assert mask[256:512, 256:512].any() and mask[256:512, 1280:1536].any()
    assert mask[1020:1030, 256:512].any()  # where the second of two devices begins
    assert not mask[:, 700:1200].any()


def test_a_step_at_the_lines_of_the_grid_shows():
    ramp = np.tile(np.arange(300.0)[:, None, None], (1, 300, 3))
    assert at_grid(ramp, np.ones((300, 300), bool)) == pytest.approx(1)
    ramp[128:] += 50
    assert at_grid(ramp, np.ones((300, 300), bool)) > 10
