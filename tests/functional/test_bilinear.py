"""Laws of the bilinear product and its matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_flax.functional import bilinear

# One compilation for each test: eagerly every operation would have its own.
bilinear_product = jax.jit(bilinear.bilinear_product)
temporal_product = jax.jit(bilinear.temporal_product)
merge_windows = jax.jit(bilinear.merge_windows)
reproject = jax.jit(bilinear.reproject)
normalize = jax.jit(bilinear.normalize, static_argnums=(1, 2))


def softmax(x, axis):
    e = np.exp(x)
    return e / e.sum(axis, keepdims=True)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def rows_sum_to_one(*shape, seed=0):
    return softmax(normal(*shape, seed=seed), -1)


def columns_sum_to_one(*shape, seed=0):
    return softmax(normal(*shape, seed=seed), -2)


def kronecker(x, p, q):
    """The published formula, with the whole matrices: kron(P, I) X kron(Q, I) per channel."""
    y = np.empty_like(x)
    groups = p.shape[1]
    for n, image in enumerate(np.asarray(x)):
        for c in range(x.shape[-1]):
            g = c // (x.shape[-1] // groups)
            left = np.kron(p[n, g], np.eye(x.shape[1] // p.shape[-1]))
            right = np.kron(q[n, g], np.eye(x.shape[2] // q.shape[-1]))
            y[n, :, :, c] = left @ image[:, :, c] @ right
    return y


# Both ways to multiply: all pairs of blocks at once, and one axis after the other.
@pytest.mark.parametrize("size, n, m", [((6, 8), 3, 2), ((4, 4), 4, 4), ((9, 20), 9, 10)])
def test_the_product_is_that_with_kronecker_matrices(size, n, m):
    x, p, q = normal(2, *size, 6), normal(2, 3, n, n, seed=1), normal(2, 3, m, m, seed=2)
    expected = kronecker(x, p, q)
    np.testing.assert_allclose(bilinear_product(x, p, q), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size, n, m", [((6, 8), 3, 2), ((7, 13), 4, 5), ((11, 20), 9, 10)])
def test_identity_matrices_leave_the_map_alone(size, n, m):
    x = normal(2, *size, 6)
    p, q = (jnp.broadcast_to(jnp.eye(k), (2, 3, k, k)) for k in (n, m))
    np.testing.assert_allclose(bilinear_product(x, p, q), x, atol=1e-6)


@pytest.mark.parametrize("size, n, m", [((6, 8), 3, 2), ((7, 13), 4, 5), ((15, 8), 8, 8)])
def test_a_constant_map_stays_constant_whatever_its_size(size, n, m):
    p, q = rows_sum_to_one(2, 3, n, n), columns_sum_to_one(2, 3, m, m)
    y = bilinear_product(jnp.full((2, *size, 6), 3.0), p, q)
    np.testing.assert_allclose(y, 3, rtol=1e-5)


def test_a_video_is_multiplied_frame_by_frame():
    x, p, q = normal(2, 3, 6, 8, 6), normal(2, 3, 2, 3, 3), normal(2, 3, 2, 4, 4)
    y = bilinear_product(x, p, q)
    for t in range(3):
        expected = bilinear_product(x[:, t], p[:, t], q[:, t])
        np.testing.assert_allclose(y[:, t], expected, atol=1e-5)


def test_groups_are_runs_of_channels():
    x, p, q = normal(2, 6, 6, 6), normal(2, 2, 3, 3), normal(2, 2, 3, 3)
    y = bilinear_product(x, p, q)
    for g in range(2):
        part = slice(3 * g, 3 * g + 3)
        one = bilinear_product(x[..., part], p[:, g : g + 1], q[:, g : g + 1])
        np.testing.assert_allclose(y[..., part], one, atol=1e-5)


@pytest.mark.parametrize("frames, n", [(4, 4), (8, 4), (7, 4), (5, 5)])
def test_frames_are_mixed_in_blocks(frames, n):
    x, m = normal(2, frames, 3, 2, 6), rows_sum_to_one(2, 3, n, n)
    t = -(-frames // n)
    whole = np.concatenate([x, *[x[:, -1:]] * (n * t - frames)], 1)
    expanded = np.stack([[np.kron(g, np.eye(t)) for g in image] for image in np.asarray(m)])
    expected = np.einsum("ngtu,nuhwgc->nthwgc", expanded, whole.reshape(2, n * t, 3, 2, 3, 2))
    expected = expected.reshape(2, n * t, 3, 2, 6)[:, :frames]
    np.testing.assert_allclose(temporal_product(x, m), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (7, 13)])
def test_the_reprojection_of_one_position_is_what_it_attends_to(size):
    p, q = rows_sum_to_one(2, 3, 3, 3), columns_sum_to_one(2, 3, 4, 4)
    i, j = 4, 5
    weigh = lambda x: bilinear_product(x, p, q)[:, i, j].sum()
    attended = jax.grad(weigh)(jnp.zeros((2, *size, 3)))
    one = jnp.zeros((2, 3, *size)).at[:, :, i, j].set(1)
    maps = jnp.moveaxis(reproject(one, p, q), -3, -1)
    if size == (6, 8):  # otherwise the repeated border has a share that is not seen here
        np.testing.assert_allclose(maps, attended, atol=1e-6)
        np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)
    assert maps.shape == attended.shape


@pytest.mark.parametrize("method", ["sigmoid", "softmax"])
def test_normalised_entries_are_positive_and_sum_to_one(method):
    for axis in (-1, -2):
        a = normalize(normal(2, 3, 5, 5), method, axis)
        np.testing.assert_allclose(a.sum(axis), 1, rtol=1e-6)
        assert (a > 0).all()


def test_sigmoids_are_divided_by_their_sum():
    logits = normal(2, 3, 5, 5)
    s = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = s / s.sum(-1, keepdims=True)
    np.testing.assert_allclose(normalize(logits, "sigmoid", -1), expected, rtol=1e-5)


def test_extreme_logits_give_finite_matrices_and_gradients():
    f = lambda a: normalize(a, "sigmoid", -1)
    logits = jnp.asarray([[-1e4, -1e4, -1e4], [1e4, 0, -1e4]])
    np.testing.assert_allclose(f(logits)[0], 1 / 3, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda a: f(a)[0, 0])(logits)).all()


def test_one_window_is_the_matrix_itself():
    logits = normal(2, 1, 3, 4, 4)
    np.testing.assert_array_equal(merge_windows(logits), logits[:, 0])


@pytest.mark.parametrize("windows, size", [(2, 7), (3, 2), (4, 3)])
def test_windows_lie_along_the_diagonal_and_are_averaged(windows, size):
    logits = normal(2, windows, 3, size, size)
    n = size + windows - 1
    total, count = np.zeros((2, 3, n, n)), np.zeros((n, n))
    for i in range(windows):
        total[..., i : i + size, i : i + size] += logits[:, i]
        count[i : i + size, i : i + size] += 1
    expected = np.where(count, total / np.maximum(count, 1), 0)
    np.testing.assert_allclose(merge_windows(logits), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [1, 4, 7])
@pytest.mark.parametrize("size", range(7, 40))
def test_blocks_cover_an_axis_with_less_than_one_block_to_spare(size, grid):
    n, t = bilinear.block_grid(size, grid)
    assert grid <= n < 2 * grid or n == grid
    assert 0 <= n * t - size < t


@pytest.mark.parametrize("height, width, n, m", [(14, 28, 7, 7), (16, 24, 8, 8), (16, 56, 8, 8)])
def test_the_grids_of_the_published_video_code_are_kept(height, width, n, m):
    rows, columns = bilinear.map_grid(height, width, 7)
    assert rows == (n, height // n) and columns == (m, width // m)


def test_a_grid_larger_than_the_map_is_an_error():
    with pytest.raises(ValueError, match="grid=7 is larger than the map, whose axis has length 6"):
        bilinear.map_grid(14, 6, 7)
    with pytest.raises(ValueError, match="a matrix of 3 blocks is larger than an axis of 2"):
        bilinear_product(normal(1, 2, 4, 2), normal(1, 1, 3, 3), normal(1, 1, 2, 2))


def test_channels_must_be_a_multiple_of_the_groups():
    with pytest.raises(ValueError, match="x has 5 channels; expected a multiple of groups=2"):
        bilinear_product(normal(1, 4, 4, 5), normal(1, 2, 2, 2), normal(1, 2, 2, 2))


def test_another_normalisation_is_an_error():
    with pytest.raises(ValueError, match="normalization is 'max'; expected 'sigmoid' or 'softmax'"):
        normalize(normal(2, 2), "max", -1)
