"""The statistic of borders, on pictures whose borders are known."""

import numpy as np
import pytest

pytest.importorskip("PIL")
from evidence.large_pictures import holes, large, steps_at_borders  # noqa: E402


def test_a_step_at_the_border_of_a_hole_shows():
    ramp = np.tile(np.arange(64.0)[:, None, None], (1, 64, 3))
    hole = np.zeros((64, 64), bool)
    hole[20:40, 20:40] = True
    assert steps_at_borders(ramp, hole) == pytest.approx(1, abs=0.05)
    assert steps_at_borders(ramp + 50 * hole[..., None], hole) > 20


def test_a_large_picture_has_no_step_where_its_parts_meet():
    half = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    image = large(half, 32)
    assert image.shape == (32, 32, 3)
    assert (image[4] == image[5]).all() and (image[:, 3] == image[:, 4]).all()


def test_holes_are_apart():
    mask = holes(2048)
    assert mask[256:512, 256:512].any() and mask[256:512, 1280:1536].any()
    assert not mask[:, 700:1200].any()
