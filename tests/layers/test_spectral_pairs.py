"""Learned pairs of transforms and the rectifier of a spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from flax import nnx

from spectral_flax.functional.orthogonal import orthogonal_matrix, qr_retraction
from spectral_flax.layers.activations import SpectrumReLU
from spectral_flax.layers.learned_pairs import HouseholderPair, RetractedPair
from spectral_flax.layers.spectral import srl_dct


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_the_spectrum_relu_scales_shifts_then_rectifies():
    layer = SpectrumReLU((3, 2))
    layer.scale[...], layer.bias[...] = normal(3, 2), normal(3, 2, seed=1)
    s = normal(2, 3, 2, 4, seed=2)
    expected = np.maximum(layer.scale[...][:, :, None] * s[1] + layer.bias[...][:, :, None], 0)
    np.testing.assert_allclose(layer(s)[1], expected, atol=1e-6)


def test_the_published_gradient_does_not_flow_through_the_qr():
    pair = RetractedPair((4, 3), rngs=nnx.Rngs(0))
    pair.row_matrix[...] = normal(4, 4)  # not orthogonal
    graphdef, state = nnx.split(pair)
    x, y = normal(1, 4, 3, 2), normal(1, 4, 3, 2, seed=1)
    loss = lambda state: jnp.vdot(nnx.merge(graphdef, state)().forward(x), y)
    gradient = jax.grad(loss)(state)["row_matrix"][...]
    q = np.asarray(pair.column_matrix[...])
    expected = np.einsum("niwc,nhvc,vw->ih", y, x, q)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    expected = np.einsum("ih,nhwc,wj->nijc", qr_retraction(normal(4, 4)), x, q)
    np.testing.assert_allclose(pair().forward(x), expected, atol=1e-5)


def test_retract_makes_the_stored_matrices_those_in_use():
    pair = RetractedPair((4, 3), rngs=nnx.Rngs(0))
    pair.row_matrix[...] = normal(4, 4)
    before = pair().matrices[0]
    pair.retract()
    np.testing.assert_allclose(pair.row_matrix[...], before, atol=1e-6)


def test_householder_parameters_stay_orthogonal_under_an_optimiser():
    pair = HouseholderPair((8, 6), rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(pair)
    x, y = normal(1, 8, 6, 2), normal(1, 8, 6, 2, seed=1)

    @jax.jit
    def train(state):
        loss = lambda state: jnp.sum((nnx.merge(graphdef, state)().forward(x) - y) ** 2)
        step = lambda _, s: jax.tree.map(lambda p, g: p - 0.05 * g, s, jax.grad(loss)(s))
        return jax.lax.fori_loop(0, 200, step, state)

    for name, v in nnx.to_flat_state(train(state)):
        q = np.asarray(orthogonal_matrix(v[...]), np.float64)
        assert np.abs(q.T @ q - np.eye(len(q))).max() < 1e-6, name


@pytest.mark.parametrize(
    ("rank", "shape", "axes"),
    [(2, (2, 5, 6, 8), (1, 2)), (3, (2, 3, 5, 4, 8), (2, 3)), (3, (2, 3, 5, 4, 8), (1, 2, 3))],
    ids=["images", "frames", "time too"],
)
def test_the_cosine_block_is_its_formula(rank, shape, axes):
    options = dict(transform_time=True) if len(axes) == 3 else dict(temporal_kernel=1)
    options = options if rank == 3 else {}
    block = srl_dct(
        8, rank=rank, kernel_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0), **options
    )
    block.gate[...] = jnp.float32(0.7)
    block.eval()
    x = np.asarray(normal(*shape))
    s = scipy.fft.dctn(x, axes=axes, norm="ortho")
    kernel = np.asarray(block.conv.kernel[...]).reshape(8)  # of one channel to one, in 8 groups
    s = np.maximum(s * kernel / np.sqrt(1 + 1e-5), 0)
    expected = x + 0.7 * scipy.fft.idctn(s, axes=axes, norm="ortho")
    np.testing.assert_allclose(block(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


def test_a_spectrum_relu_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"was built for \(3, 2\)"):
        SpectrumReLU((3, 2))(normal(2, 3, 3, 4))
