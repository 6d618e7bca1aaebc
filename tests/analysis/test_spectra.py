"""Gains, thresholds, bases and paths of spectral layers, and random networks with open gates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.analysis.paths import path_energies
from spectral_flax.analysis.random_networks import open_gates, set_batch_statistics
from spectral_flax.analysis.spectra import (
    centred,
    frequency_responses,
    orthogonal_bases,
    thresholds,
)
from spectral_flax.layers.deformable import DeformableConv
from spectral_flax.layers.ffc import FourierUnit
from spectral_flax.layers.non_local import NonLocal
from spectral_flax.layers.norm import BatchNorm
from spectral_flax.layers.spectral import srl_fft, srl_lo

MAP = jax.random.normal(jax.random.key(0), (2, 6, 7, 8))


def unit(gain):
    """A Fourier unit that only multiplies, of spectra without negative numbers."""
    layer = FourierUnit(3, 3, rngs=nnx.Rngs(0))
    layer.norm.epsilon = 0.0
    layer.conv.kernel[...] = gain * jnp.eye(6)[None, None]
    return layer


@pytest.mark.parametrize("size, gain", [((5, 8), 1), ((6, 7), 3)])
def test_the_response_of_a_unit_that_multiplies_is_flat(size, gain):
    impulse = jnp.zeros((1, *size, 3)).at[:, 0, 0].set(1)  # its spectrum is 1 everywhere
    (response,) = frequency_responses(unit(gain), impulse).values()
    assert response.shape == size
    np.testing.assert_allclose(response, gain, rtol=1e-5)


def test_the_response_of_a_block_is_that_of_its_sum():
    (response,) = frequency_responses(srl_fft(8, rngs=nnx.Rngs(0)), MAP).values()  # its gate is 0
    np.testing.assert_allclose(response, 1, rtol=1e-5)


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (6, 7), (1, 1)])
def test_a_centred_spectrum_is_that_of_a_real_map(size):
    x = np.random.default_rng(0).normal(size=size)
    half = np.abs(np.fft.rfft2(x))
    np.testing.assert_allclose(centred(half, size[1]), np.fft.fftshift(np.abs(np.fft.fft2(x))))


def test_thresholds_are_where_something_passes():
    layer = nnx.List([srl_fft(8, spectrum_size=(6, 7), rngs=nnx.Rngs(0))])
    relu = layer[0].spectrum_relu
    relu.scale[...] = relu.scale[...].at[0, 0].set(2)
    relu.bias[...] = relu.bias[...].at[0, 0].set(-3)
    (found,) = thresholds(nnx.Sequential(*layer)).values()
    assert found.threshold.shape == (6, 7)  # zero frequency is in the middle
    assert found.threshold[3, 3] == 1.5 and np.count_nonzero(found.threshold) == 1


def test_rows_of_bases_transform_a_map():
    layer = srl_lo(8, size=(6, 7), orthogonal="qr", rngs=nnx.Rngs(0))
    ((name, axes),) = orthogonal_bases(nnx.Sequential(layer)).items()
    assert name == "layers.0" and list(axes) == ["rows", "columns"]
    for matrix in axes.values():
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-5)
    expected = np.einsum("uh,vw,nhwc->nuvc", *axes.values(), MAP)
    np.testing.assert_allclose(jax.jit(lambda x: layer.pair().forward(x))(MAP), expected, atol=1e-4)


def test_paths_are_the_channels_of_a_map():
    model = sf.create_model("ffc_resnet18", ratio=0.5, lfu=False, width=8, depths=(1, 1))
    images = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    ((name, found),) = path_energies(model, images).items()
    assert name == "stage1"  # the last stage joins the paths
    model.eval()
    squares = np.square(jax.jit(model.features)(images)["stage1"])
    np.testing.assert_allclose(found.local, squares[..., :4].mean(-1), rtol=1e-3)
    np.testing.assert_allclose(found.global_, squares[..., 4:].mean(-1), rtol=1e-3)


def test_networks_without_them_are_told_which_have():
    model = sf.create_model("resnet18", width=4, depths=(1,), num_classes=2)
    images = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(ValueError, match=r"ResNet has no layer in the domain .*srl_fft, srl_lo"):
        frequency_responses(model, images)
    with pytest.raises(ValueError, match=r"local and global channels; .*ffc_\* and lama"):
        path_energies(model, images)
    assert thresholds(model) == orthogonal_bases(model) == {}


def test_open_gates_let_a_block_take_part():
    layer = NonLocal(8, rngs=nnx.Rngs(0))
    layer.eval()
    np.testing.assert_array_equal(layer(MAP), MAP)
    assert open_gates(layer) == ["norm.scale"]
    assert np.abs(layer(MAP) - MAP).max() > 1e-6
    assert open_gates(layer) == []


def test_displacements_have_the_size_that_is_said():
    layer = DeformableConv(64, 8, rngs=nnx.Rngs(0))
    assert open_gates(layer) == ["offset.kernel"]
    x = nnx.relu(jax.random.normal(jax.random.key(0), (1, 32, 32, 64)))
    assert np.std(layer.offset(x)) == pytest.approx(2, rel=0.25)


def test_statistics_become_those_of_the_images():
    norm = BatchNorm(8)
    set_batch_statistics(norm, MAP)
    np.testing.assert_allclose(norm.mean[...], MAP.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(norm.var[...], MAP.var((0, 1, 2), ddof=1), rtol=1e-5)
