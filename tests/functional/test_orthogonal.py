"""Laws of orthogonal matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from spectral_flax.functional import orthogonal
from spectral_flax.functional.orthogonal import matrix_to_reflectors

# One compilation for each test: eagerly every operation would have its own.
orthogonal_matrix = jax.jit(orthogonal.orthogonal_matrix)
qr_retraction = jax.jit(orthogonal.qr_retraction)
apply_reflectors = jax.jit(orthogonal.apply_reflectors, static_argnames=("axis", "transpose"))
random_orthogonal = jax.jit(orthogonal.random_orthogonal, static_argnums=1)
random_reflectors = jax.jit(orthogonal.random_reflectors, static_argnums=1)
gradient_of_sine = jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(orthogonal.orthogonal_matrix(v)))))


def error(matrix):
    matrix = np.asarray(matrix, np.float64)
    return np.abs(matrix.T @ matrix - np.eye(len(matrix))).max()


def gaussian(n, k, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, k), np.float32))


def reflection(v):
    return np.eye(len(v)) - 2 * np.outer(v, v) / (v @ v)


# Reflectors that strain the arithmetic: alike, nearly zero, huge, in any direction.
REFLECTORS = {
    "gaussian": lambda n: gaussian(n, n),
    "triangular": lambda n: jnp.tril(gaussian(n, n)),
    "alike": lambda n: jnp.ones((n, n)) + 0.01 * gaussian(n, n),
    "equal": lambda n: jnp.ones((n, n)),
    "near identity": lambda n: jnp.eye(n) + 0.1 * gaussian(n, n),
    "zero": lambda n: jnp.zeros((n, n)),
    "tiny": lambda n: 1e-25 * gaussian(n, n),
    "huge": lambda n: 1e30 * gaussian(n, n),
}


@pytest.mark.parametrize("kind", REFLECTORS)
@pytest.mark.parametrize("n", [1, 2, 7, 64, 128])
def test_every_entry_of_the_gram_matrix_is_within_1e_6_of_the_identity(n, kind):
    assert error(orthogonal_matrix(REFLECTORS[kind](n))) < 1e-6


@pytest.mark.parametrize("n, k", [(5, 5), (6, 3), (4, 1)])
def test_the_matrix_is_the_product_of_the_reflections_in_order(n, k):
    v = np.asarray(gaussian(n, k), np.float64)
    product = np.linalg.multi_dot([np.eye(n), np.eye(n), *map(reflection, v.T)])
    with jax.enable_x64(True):
        matrix = orthogonal_matrix(jnp.asarray(v))
    np.testing.assert_allclose(matrix, product, atol=1e-14)


def test_a_zero_reflector_is_the_identity_and_gets_no_gradient():
    v = gaussian(6, 4).at[:, 2].set(0)
    without = orthogonal_matrix(jnp.delete(v, 2, axis=1))
    np.testing.assert_allclose(orthogonal_matrix(v), without, atol=1e-6)
    gradient = np.asarray(gradient_of_sine(v))
    assert np.isfinite(gradient).all()
    assert not gradient[:, 2].any() and gradient[:, 1].any()


@pytest.mark.parametrize("kind", REFLECTORS)
def test_gradients_are_finite_at_every_value(kind):
    assert np.isfinite(gradient_of_sine(REFLECTORS[kind](7))).all()


def test_gradients_agree_with_differences():
    with jax.enable_x64(True):
        v = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))
        check_grads(orthogonal_matrix, (v,), order=2, modes=["rev"])


def test_a_nan_is_not_hidden():
    assert np.isnan(orthogonal_matrix(gaussian(4, 4).at[0, 0].set(jnp.nan))).any()


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -2, -1])
def test_applying_reflectors_is_multiplying_by_their_matrix(axis, transpose):
    x = np.random.default_rng(1).standard_normal((6, 6, 6, 6), np.float32)
    v = gaussian(6, 4)
    matrix = orthogonal_matrix(v)
    expected = np.tensordot(matrix.T if transpose else matrix, x, (1, axis))
    actual = apply_reflectors(v, x, axis=axis, transpose=transpose)
    np.testing.assert_allclose(actual, np.moveaxis(expected, 0, axis), atol=1e-5)


def test_applying_and_applying_back_is_the_identity():
    x, v = gaussian(5, 9), gaussian(9, 9)
    there = apply_reflectors(v, x)
    np.testing.assert_allclose(apply_reflectors(v, there, transpose=True), x, atol=1e-5)


def test_applying_to_another_length_is_an_error():
    with pytest.raises(ValueError, match="length 5; expected the reflectors' 4"):
        apply_reflectors(gaussian(4, 4), gaussian(2, 5))


def special_matrices():
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]
    permutation = np.eye(6)[[3, 1, 0, 5, 4, 2]]
    return {
        "random": q,
        "other determinant": q @ np.diag([-1.0] + [1] * 8),
        "identity": np.eye(5),
        "minus identity": -np.eye(5),
        "signs": np.diag([1.0, -1, 1, -1, -1]),
        "permutation": permutation,
        "one": np.ones((1, 1)),
        "minus one": -np.ones((1, 1)),
    }


@pytest.mark.parametrize("name", special_matrices())
def test_any_orthogonal_matrix_is_a_product_of_reflections_signs_included(name):
    matrix = special_matrices()[name]
    reflectors = matrix_to_reflectors(matrix)
    assert reflectors.shape == matrix.shape
    with jax.enable_x64(True):
        again = orthogonal_matrix(jnp.asarray(reflectors))
    np.testing.assert_allclose(again, matrix, atol=1e-14)
    assert np.sign(np.linalg.det(again)) == np.sign(np.linalg.det(matrix))


@pytest.mark.parametrize("n", [16, 128])
def test_reflectors_kept_in_float32_keep_the_matrix(n):
    matrix = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    again = orthogonal_matrix(jnp.asarray(matrix_to_reflectors(matrix), jnp.float32))
    np.testing.assert_allclose(again, matrix, atol=1e-6)


def test_a_matrix_that_is_not_orthogonal_gives_its_qr_factor():
    matrix = np.random.default_rng(0).standard_normal((6, 6))
    with jax.enable_x64(True):
        factor = orthogonal_matrix(jnp.asarray(matrix_to_reflectors(matrix)))
        np.testing.assert_allclose(factor, qr_retraction(jnp.asarray(matrix)), atol=1e-13)


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), np.ones(4), np.full((2, 2), np.nan)])
def test_only_finite_square_matrices_have_reflectors(matrix):
    with pytest.raises(ValueError, match=r"square|finite"):
        matrix_to_reflectors(matrix)


@pytest.mark.parametrize("n", [1, 7, 128])
def test_the_retraction_is_orthogonal_with_a_positive_diagonal(n):
    matrix = gaussian(n, n)
    q = qr_retraction(matrix)
    assert error(q) < 1e-6
    assert (np.diagonal(np.asarray(q).T @ matrix) > 0).all()


def test_the_retraction_leaves_orthogonal_matrices_alone():
    for name, matrix in special_matrices().items():
        np.testing.assert_allclose(
            qr_retraction(jnp.asarray(matrix, jnp.float32)), matrix, atol=1e-6, err_msg=name
        )


def test_the_retraction_of_a_singular_matrix_is_still_orthogonal():
    assert error(qr_retraction(jnp.ones((4, 4)))) < 1e-6


def test_random_matrices_are_uniform_on_both_components():
    # Moments of the Haar distribution on O(n): E[Q_ij^2] = 1/n, E[Q_ij^4] = 3/(n (n + 2)),
    # E[trace] = 0, E[trace^2] = 1; half have determinant -1. 4000 draws: 5 standard errors.
    n, draws = 4, 4000
    keys = jax.random.split(jax.random.key(0), draws)
    q = np.asarray(jax.vmap(lambda key: random_orthogonal(key, n))(keys), np.float64)
    margin = 5 / np.sqrt(draws)
    np.testing.assert_allclose((q**2).mean(0), 1 / n, atol=margin * 0.25)
    np.testing.assert_allclose((q**4).mean(0), 3 / (n * (n + 2)), atol=margin * 0.25)
    trace = np.trace(q, axis1=1, axis2=2)
    assert abs(trace.mean()) < margin and abs((trace**2).mean() - 1) < margin * 1.5
    assert abs(np.linalg.det(q).mean()) < margin


def test_random_reflectors_are_those_of_a_gaussian_matrix():
    # The first column of the matrix is the first Gaussian vector, normalised.
    v = random_reflectors(jax.random.key(3), 6)
    x = jax.random.normal(jax.random.key(3), (6, 6))[:, 0]
    np.testing.assert_allclose(orthogonal_matrix(v)[:, 0], x / jnp.linalg.norm(x), atol=1e-6)


def test_hundreds_of_optimiser_steps_keep_the_matrix_orthogonal():
    target = random_orthogonal(jax.random.key(1), 16)
    loss = lambda v: jnp.sum(jnp.square(orthogonal_matrix(v) - target))

    @jax.jit
    def train(v):
        return jax.lax.fori_loop(0, 300, lambda _, v: v - 0.05 * jax.grad(loss)(v), v)

    start = random_reflectors(jax.random.key(0), 16)
    end = train(start)
    assert loss(end) < 0.5 * loss(start)
    assert error(orthogonal_matrix(end)) < 1e-6


@pytest.mark.parametrize("function", [orthogonal_matrix, qr_retraction])
def test_low_precision_parameters_give_a_matrix_in_float32(function):
    matrix = function(gaussian(8, 8).astype(jnp.bfloat16))
    assert matrix.dtype == jnp.float32 and error(matrix) < 1e-6


@pytest.mark.parametrize("function", [orthogonal_matrix, qr_retraction])
def test_leading_axes_are_a_batch(function):
    v = np.random.default_rng(0).standard_normal((2, 3, 5, 5), np.float32)
    expected = np.stack([[function(m) for m in row] for row in v])
    np.testing.assert_allclose(function(v), expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.vmap(function))(v), expected, atol=1e-6)


@pytest.mark.parametrize("matrix", [np.eye(3) * 1j, np.full((2, 2), "a"), "text", None])
def test_only_real_numbers_are_factored(matrix):
    with pytest.raises(TypeError, match=r"matrix has dtype .*; expected real numbers"):
        matrix_to_reflectors(matrix)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_only_square_matrices_are_retracted(shape):
    with pytest.raises(ValueError, match="expected square matrices"):
        orthogonal.qr_retraction(np.ones(shape, np.float32))
