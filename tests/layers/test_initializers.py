import jax
import numpy as np
import pytest

from spectral_flax.layers.initializers import kaiming_normal, normal


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (3, 3, 64, 128), (1, 1, 5, 7)], ids=str)
def test_an_initialiser_draws_the_same_eagerly_and_compiled(shape):
    key = jax.random.key(0)
    compiled = jax.jit(lambda key: kaiming_normal(key, shape))(key)
    np.testing.assert_array_equal(kaiming_normal(key, shape), compiled)


def test_kaiming_normal_has_the_variance_of_fan_out():
    kernel = kaiming_normal(jax.random.key(0), (3, 3, 64, 512))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 512)), rtol=0.01)
    assert abs(kernel.mean()) < 1e-3 * kernel.std() * 10
    np.testing.assert_allclose(normal(3.0)(jax.random.key(1), (100, 100)).std(), 3, rtol=0.05)


def test_blocks_of_a_large_draw_differ():
    draw = np.asarray(normal(1.0)(jax.random.key(0), (3, 1 << 18)))
    assert np.abs(np.corrcoef(draw) - np.eye(3)).max() < 0.01
