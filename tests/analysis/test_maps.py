"""Attention maps as pictures."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from spectral_flax.analysis.maps import colour, draw_maps, overlay, scale_to_bytes
from spectral_flax.layers.bilinear import bat, bat3d


def uniform(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def test_each_map_is_scaled_to_all_of_0_to_255():
    levels = scale_to_bytes(uniform(2, 3, 5, 4) * np.arange(1, 4)[:, None, None] - 7)
    assert levels.dtype == np.uint8
    assert (levels.min((-2, -1)) == 0).all() and (levels.max((-2, -1)) == 255).all()


def test_a_constant_map_is_dark():
    assert not scale_to_bytes(np.full((3, 3), 0.7)).any()


def test_colours_run_from_dark_blue_to_dark_red():
    assert colour(np.array([[0, 255]])).tolist() == [[[0, 0, 128], [128, 0, 0]]]


def test_a_transparent_map_leaves_the_image():
    image = np.round(255 * uniform(8, 6, 3)).astype(np.uint8)
    np.testing.assert_array_equal(overlay(image, uniform(2, 3), opacity=0), image)


def test_an_opaque_map_shows_its_peak_where_it_is():
    weights = np.zeros((8, 6))
    weights[2, 4] = 1
    picture = overlay(uniform(8, 6, 3), weights, opacity=1)
    assert picture[2, 4].tolist() == [128, 0, 0] and picture[0, 0].tolist() == [0, 0, 128]


def test_an_image_is_drawn_with_a_picture_per_group(tmp_path):
    block = bat(16, grid=3, groups=2, rngs=nnx.Rngs(0))
    block.eval()
    maps = block.attention_maps(jnp.asarray(uniform(2, 6, 6, 16)))
    path = draw_maps(uniform(2, 24, 18, 3), maps, tmp_path / "maps.png", example=1)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == (3 * 18, 24)


def test_a_video_is_drawn_with_a_row_per_frame(tmp_path):
    block = bat3d(16, grid=3, groups=2, temporal_groups=1, temporal_grid=2, rngs=nnx.Rngs(0))
    block.eval()
    maps = block.attention_maps(jnp.asarray(uniform(1, 2, 6, 6, 16)))
    # The network has halved four frames to two.
    path = draw_maps(uniform(1, 4, 12, 12, 3), maps, tmp_path / "maps.png")
    with Image.open(path) as picture:
        assert picture.size == (3 * 12, 2 * 12)


@pytest.mark.parametrize(
    "images, weights, message",
    [
        ((1, 8, 8, 3), (1, 2, 2, 4, 4), "expected .N, H, W, 3. with .N, G, h, w."),
        ((2, 8, 8, 3), (1, 2, 4, 4), "example=0 of 2 images and 1 maps"),
        ((1, 3, 8, 8, 3), (1, 2, 2, 4, 4), "3 frames are no multiple of the maps' 2"),
        ((1, 8, 8, 4), (1, 2, 4, 4), "the image has shape .*; expected .H, W, 3."),
    ],
)
def test_shapes_that_do_not_belong_together_are_errors(tmp_path, images, weights, message):
    with pytest.raises(ValueError, match=message):
        draw_maps(uniform(*images), uniform(*weights), tmp_path / "maps.png")


@pytest.mark.parametrize(
    "image, weights, opacity, message",
    [
        (uniform(4, 4, 3) - 1, uniform(2, 2), 0.5, "expected floats from 0 to 1"),
        (uniform(4, 4, 3), uniform(2, 2) * np.nan, 0.5, "not all finite"),
        (uniform(4, 4, 3), uniform(2), 0.5, "expected .h, w."),
        (uniform(4, 4, 3), uniform(2, 2), 1.5, "opacity=1.5; expected a number from 0 to 1"),
    ],
)
def test_values_that_cannot_be_drawn_are_errors(image, weights, opacity, message):
    with pytest.raises(ValueError, match=message):
        overlay(image, weights, opacity=opacity)
