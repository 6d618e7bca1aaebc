"""Halving and doubling of maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_flax.functional import octave_down, octave_up

SHAPES = [(2, 4, 6, 3), (2, 3, 4, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_halving_is_the_mean_of_blocks_and_undoes_doubling(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    *lead, h, w, c = shape
    blocks = np.asarray(x).reshape(*lead, h // 2, 2, w // 2, 2, c)
    np.testing.assert_allclose(octave_down(x), blocks.mean((-4, -2)), atol=1e-6)
    assert octave_up(x).shape == (*lead, 2 * h, 2 * w, c)
    np.testing.assert_allclose(octave_down(octave_up(x)), x, atol=1e-6)


def test_doubling_is_four_times_the_transpose_of_halving():
    x, y = jnp.ones((1, 4, 6, 2)), jax.random.normal(jax.random.key(1), (1, 2, 3, 2))
    (transposed,) = jax.linear_transpose(octave_down, x)(y)
    np.testing.assert_allclose(4 * transposed, octave_up(y), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 4, 2), (1, 4, 5, 2), (4, 4, 2)])
def test_odd_maps_are_refused(shape):
    with pytest.raises(ValueError, match="with even H and W"):
        octave_down(jnp.ones(shape))
    with pytest.raises(ValueError, match=r"expected \[N, H, W, C\]"):
        octave_up(jnp.ones((4, 4, 2)))
