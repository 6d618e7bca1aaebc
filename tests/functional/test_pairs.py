"""Laws of transform pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_flax.functional import pairs
from spectral_flax.functional.fourier import RealFFT
from spectral_flax.functional.orthogonal import random_orthogonal

SIZES = [(8, 8), (7, 8), (8, 7), (5, 13), (1, 4), (1, 1), (3, 4, 6)]
BINARY = [(8, 8), (2, 16), (1, 1), (4, 2, 8)]


def orthogonal(sizes):
    draws = (np.random.default_rng(n).standard_normal((n, n)) for n in sizes)
    return pairs.Orthogonal(tuple(jnp.asarray(np.linalg.qr(d)[0], jnp.float32) for d in draws))


PAIRS = [
    *[(lambda s: RealFFT(len(s)), size) for size in SIZES],
    *[(lambda s: RealFFT(len(s), groups=2, implementation="matmul"), size) for size in SIZES],
    *[(lambda s: pairs.Cosine(len(s)), size) for size in SIZES],
    *[(orthogonal, size) for size in SIZES],
    *[(lambda s: pairs.Identity(), size) for size in SIZES],
    *[(lambda s: pairs.Hadamard(len(s)), size) for size in BINARY],
]


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def inner(pair, s, t, width):
    """Inner product of two spectra; a half spectrum counts its inner columns twice."""
    weights = np.ones(s.shape[-2])
    if isinstance(pair, RealFFT):
        columns = np.arange(s.shape[-2])
        weights = np.where((2 * columns) % width == 0, 1, 2)
    return np.sum(np.asarray(s, np.float64) * np.asarray(t) * weights[:, None])


@pytest.mark.parametrize("make, size", PAIRS)
def test_a_pair_is_unitary(make, size):
    pair, x, y = make(size), normal(2, *size, 4), normal(2, *size, 4, seed=1)
    s, t = jax.jit(jax.vmap(pair.forward))(jnp.stack([x, y]))
    assert s.shape[-1] == pair.multiplier * 4
    back = jax.jit(pair.inverse, static_argnums=1)
    np.testing.assert_allclose(back(s, size), x, atol=1e-5)
    expected = np.sum(np.asarray(x, np.float64) * np.asarray(y))
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    assert abs(inner(pair, s, t, size[-1]) - expected) < 1e-6 * scale


@pytest.mark.parametrize("make, size", [p for p in PAIRS if len(p[1]) == 2])
def test_a_spatial_pair_transforms_a_video_frame_by_frame(make, size):
    pair, x = make(size), normal(2, 3, *size, 4)
    there, back = jax.jit(pair.forward), jax.jit(pair.inverse, static_argnums=1)
    s = np.asarray(there(x))
    for frame in range(3):
        one = there(np.asarray(x)[:, frame])
        np.testing.assert_allclose(s[:, frame], one, atol=1e-5)
    np.testing.assert_allclose(back(s, size), x, atol=1e-5)


def test_the_orthogonal_pair_is_p_x_q():
    p, q = random_orthogonal(jax.random.key(0), 5), random_orthogonal(jax.random.key(1), 3)
    x = normal(2, 5, 3, 4)
    expected = np.einsum("ih,nhwc,wj->nijc", p, x, q)
    np.testing.assert_allclose(pairs.Orthogonal((p, q)).forward(x), expected, atol=1e-6)


def test_the_cosine_of_a_constant_is_one_coefficient():
    s = pairs.Cosine().forward(jnp.ones((1, 6, 5, 1)))
    np.testing.assert_allclose(s[0, 0, 0], np.sqrt(30), rtol=1e-6)
    np.testing.assert_allclose(s.at[0, 0, 0].set(0), 0, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_the_cosine_matrix_is_the_definition(n):
    k, i = np.mgrid[:n, :n]
    expected = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
    expected[0] /= np.sqrt(2)
    np.testing.assert_allclose(pairs.cosine_matrix(n), expected, atol=1e-14)


@pytest.mark.parametrize("make, size", PAIRS)
def test_bfloat16_stays_bfloat16(make, size):
    pair, x = make(size), normal(1, *size, 4).astype(jnp.bfloat16)
    s = jax.jit(pair.forward)(x)
    y = jax.jit(pair.inverse, static_argnums=1)(s, size)
    assert s.dtype == y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), x.astype(np.float32), atol=0.1)


def test_a_size_that_a_pair_was_not_built_for_is_an_error():
    with pytest.raises(ValueError, match="the map is 4 x 6; this transform was built for 4 x 5"):
        orthogonal((4, 5)).forward(normal(1, 4, 6, 2))


@pytest.mark.parametrize("n", [3, 6, 7, 12])
def test_a_hadamard_transform_needs_powers_of_two(n):
    with pytest.raises(ValueError, match=f"length {n}; expected a power of two"):
        pairs.Hadamard().forward(normal(1, n, 4, 2))


@pytest.mark.parametrize("kind", [RealFFT, pairs.Cosine, pairs.Hadamard])
def test_other_ranks_are_errors(kind):
    with pytest.raises(ValueError, match=r"rank is 1; expected 2 \(H, W\) or 3"):
        kind(1)


@pytest.mark.parametrize("kind", [RealFFT, pairs.Cosine, pairs.Hadamard])
def test_fixed_pairs_are_equal_and_hash_alike_when_their_options_are(kind):
    assert kind(2) == kind(2) != kind(3) and hash(kind(2)) == hash(kind(2))
