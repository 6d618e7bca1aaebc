"""Adaptive pooling against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_flax.functional import pooling

# One compilation for each test: eagerly every operation would have its own.
static = dict(static_argnames=("sizes", "axes"))
adaptive_average_pool = jax.jit(pooling.adaptive_average_pool, **static)
adaptive_max_pool = jax.jit(pooling.adaptive_max_pool, **static)

KINDS = [(adaptive_average_pool, np.mean), (adaptive_max_pool, np.max)]
BINS = [(6, 1), (6, 2), (6, 6), (7, 3), (5, 4), (13, 7), (16, 7), (2, 5), (1, 1)]


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("pool, reduce", KINDS)
@pytest.mark.parametrize("n, size", BINS)
def test_each_bin_runs_from_the_floor_to_the_ceiling(n, size, pool, reduce):
    x = normal(2, n, 3)
    bins = [
        x[:, int(np.floor(i * n / size)) : int(np.ceil((i + 1) * n / size))] for i in range(size)
    ]
    expected = np.stack([reduce(np.asarray(b), 1) for b in bins], 1)
    np.testing.assert_allclose(pool(x, (size,), axes=(1,)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_axes_are_pooled_independently(pool, reduce):
    x = normal(2, 5, 7, 6, 3)
    one = x
    for size, axis in ((2, 1), (3, 2), (4, 3)):
        one = pool(one, (size,), axes=(axis,))
    np.testing.assert_allclose(pool(x, (2, 3, 4), axes=(1, 2, 3)), one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pool(x, (3, 4)), pool(x, (3, 4), axes=(2, 3)), rtol=1e-6)
    np.testing.assert_allclose(pool(x, (1, 1))[:, :, 0, 0], reduce(x, (2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_as_many_bins_as_positions_is_the_identity(pool, reduce):
    x = normal(2, 5, 4, 3)
    np.testing.assert_array_equal(pool(x, (5, 4)), x)


def test_a_constant_stays_constant():
    for pool, _ in KINDS:
        np.testing.assert_allclose(pool(jnp.full((1, 11, 13, 2), 3.0), (7, 5)), 3, rtol=1e-6)


@pytest.mark.parametrize("pool, reduce", KINDS)
@pytest.mark.parametrize("n", [12, 13])
def test_bfloat16_stays_bfloat16(n, pool, reduce):
    assert pool(normal(1, n, n, 2).astype(jnp.bfloat16), (6, 6)).dtype == jnp.bfloat16


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_pooling_compiles_without_a_gather(pool, reduce):
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x, (7, 3)))))
    assert " gather(" not in jax.jit(grad).lower(normal(2, 13, 8, 3)).compile().as_text()


@pytest.mark.parametrize("pool, reduce", KINDS)
@pytest.mark.parametrize("sizes", [(0, 1), (-2, 1), (1.5, 1)])
def test_sizes_that_are_not_positive_integers_are_errors(sizes, pool, reduce):
    with pytest.raises(ValueError, match=r"sizes is .*; expected positive integers"):
        pool(normal(1, 4, 4, 2), sizes)


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_one_size_for_each_axis(pool, reduce):
    with pytest.raises(ValueError, match="differ in number"):
        pool(normal(1, 4, 4, 2), (2,))


def test_axes_that_do_not_exist_are_errors():
    with pytest.raises(ValueError, match=r"axes \(4,\) are not all axes of x, which has 4"):
        adaptive_max_pool(normal(1, 4, 4, 2), (2,), axes=(4,))


@pytest.mark.parametrize("method, reduce", [("average", np.mean), ("max", np.max)])
@pytest.mark.parametrize("frames, window", [(1, 3), (2, 3), (5, 3), (5, 5), (4, 1)])
def test_frames_are_pooled_with_the_neighbours_that_exist(frames, window, method, reduce):
    x = normal(2, frames, 3, 2)
    half = window // 2
    near = [np.asarray(x)[:, max(t - half, 0) : t + half + 1] for t in range(frames)]
    expected = np.stack([reduce(n, 1) for n in near], 1)
    np.testing.assert_allclose(pooling.pool_frames(x, window, method), expected, atol=1e-6)


@pytest.mark.parametrize("window, method", [(2, "max"), (0, "max"), (3, "sum")])
def test_windows_are_odd_and_methods_known(window, method):
    with pytest.raises(ValueError, match=r"window=|method="):
        pooling.pool_frames(normal(1, 4, 2), window, method)
