"""Global filters, Fourier mixers and spectral convolutions: published numbers, laws, edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_checks
import pytest
from applied import apply
from flax import nnx
from jax.test_util import check_grads
from parity_checks import PRECISIONS, check_parity

from spectral_flax.functional import (
    fourier_mixer,
    global_filter,
    rfft2,
    spectral_convolution,
)
from spectral_flax.layers import FourierMixer, GlobalFilter, SpectralConvolution


class OnTokens(nnx.Module):
    """A layer of maps on the published tokens, ``[N, H * W, C]``; names are the layer's."""

    def __init__(self, layer, size):
        self.layer, self.size = layer, size

    def __call__(self, x):
        return self.layer(x.reshape(len(x), *self.size, -1)).reshape(x.shape)


LAYERS = {
    "gfnet_global_filter": (lambda **n: GlobalFilter(32, (14, 14), **n), (14, 14)),
    "gfnet_global_filter_rect": (lambda **n: GlobalFilter(32, (12, 10), **n), (12, 10)),
    "afno2d": (lambda **n: FourierMixer(32, num_blocks=4, **n), (14, 14)),
    "afno2d_rect": (lambda **n: FourierMixer(32, num_blocks=4, expansion=2, **n), (12, 10)),
}


@pytest.mark.parametrize("x64", PRECISIONS)
@pytest.mark.parametrize("case", LAYERS)
def test_filters_of_tokens_give_the_published_numbers(case, x64, monkeypatch):
    make, size = LAYERS[case]
    load = parity_checks.load_torch
    monkeypatch.setattr(parity_checks, "load_torch", lambda model, state: load(model.layer, state))
    check_tokens = lambda **n: OnTokens(make(rngs=nnx.Rngs(0), **n), size)
    monkeypatch.setattr(parity_checks, "_channels_last", lambda x: np.asarray(x))
    check_parity(case, check_tokens, x64=x64)


@pytest.mark.parametrize("x64", PRECISIONS)
@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("fno_spectral_conv_32", dict(modes=(8, 5), use_bias=True)),
        ("fno_spectral_conv_64", dict(modes=(8, 5), use_bias=True)),
        ("fno_original_spectral_conv2d_32", dict(modes=(16, 8))),
        ("fno_original_spectral_conv2d_64", dict(modes=(16, 8))),
    ],
)
def test_spectral_convolutions_give_the_published_numbers(case, options, x64):
    make = functools.partial(SpectralConvolution, 16, 16, rngs=nnx.Rngs(0), **options)
    check_parity(case, make, x64=x64)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_global_filter_is_a_circular_convolution():
    with jax.enable_x64(True):
        x, kernel = random(1, 6, 7, 2), random(6, 7, 2, seed=1)
        spectrum = rfft2(kernel, norm="backward")
        found = global_filter(x, spectrum)
        wanted = np.zeros_like(x)
        for i in range(6):
            for j in range(7):
                wanted += kernel[i, j] * np.roll(x, (i, j), (1, 2))
        np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 9), (7, 6)])
def test_a_filter_of_ones_and_a_mixer_of_nothing_change_nothing(size):
    x = random(2, *size, 4)
    weight = np.zeros((size[0], size[1] // 2 + 1, 8))
    weight[..., :4] = 1
    np.testing.assert_allclose(global_filter(x, weight), x, atol=1e-5)
    zeros = (
        [np.zeros((2, 2, 2, 3)), np.zeros((2, 2, 3, 2))],
        [np.zeros((2, 2, 3)), np.zeros((2, 2, 2))],
    )
    assert not fourier_mixer(x, *zeros).any()


@pytest.mark.parametrize("modes", [(8, 5), (3, 2), (4, 3), (1, 1)])
def test_a_spectral_convolution_keeps_the_lowest_frequencies(modes):
    x = random(1, 8, 8, 2)
    identity = np.zeros((*modes, 2, 2, 2))
    identity[..., 0, :, :] = np.eye(2)
    s = np.fft.rfft2(x, axes=(1, 2))
    kept = np.zeros(s.shape[1:3], bool)
    rows = np.fft.fftfreq(8, 1 / 8).astype(int)
    kept[:, : modes[1]] = ((rows >= -(modes[0] // 2)) & (rows < modes[0] - modes[0] // 2))[:, None]
    wanted = np.fft.irfft2(s * kept[None, ..., None], axes=(1, 2))
    np.testing.assert_allclose(spectral_convolution(x, identity), wanted, atol=1e-5)


def test_a_spectral_convolution_means_the_same_on_a_finer_grid():
    kernel = random(6, 4, 2, 2, 3)
    y, x = (np.arange(n) / n for n in (16, 12))
    wave = lambda y, x: np.stack(
        [np.cos(2 * np.pi * (2 * y - x)), np.sin(2 * np.pi * y) + x * 0], -1
    )
    coarse = wave(y[:, None], x[None])[None]
    fine = wave(np.arange(32)[:, None] / 32, np.arange(24)[None] / 24)[None]
    found = spectral_convolution(fine, kernel)[:, ::2, ::2]
    np.testing.assert_allclose(found, spectral_convolution(coarse, kernel), atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x = random(1, 5, 6, 4)
        kernel, weight = random(3, 2, 2, 4, 2), random(5, 4, 8)
        mixer = [random(2, 2, 2, 3), random(2, 2, 3, 2)], [random(2, 2, 3), random(2, 2, 2)]
        for f, arguments in (
            (spectral_convolution, (x, kernel)),
            (global_filter, (x, weight)),
            (fourier_mixer, (x, *mixer)),
        ):
            check_grads(f, arguments, order=1, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        lambda **n: GlobalFilter(8, (3, 5, 6), **n),
        lambda **n: FourierMixer(8, rank=3, num_blocks=2, **n),
        lambda **n: SpectralConvolution(8, 8, (2, 3, 2), **n),
    ],
    ids=["filter", "mixer", "operator"],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_videos_and_short_types_are_taken(layer, dtype):
    model = layer(dtype=dtype, rngs=nnx.Rngs(0))
    x = jnp.asarray(random(2, 3, 5, 6, 8), jnp.float32)
    y = apply(model, x)
    assert y.shape == x.shape and y.dtype == dtype and np.isfinite(np.float32(y)).all()
    one = jnp.concatenate([apply(model, x[:1]), apply(model, x[1:])])
    np.testing.assert_allclose(np.float32(y), np.float32(one), atol=1e-5)
    other = apply(nnx.view(model, implementation="matmul"), x)
    np.testing.assert_allclose(
        np.float32(y), np.float32(other), atol=0.05 if dtype != np.float32 else 1e-5
    )


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: spectral_convolution(random(1, 4, 4, 2), random(5, 2, 2, 2, 2)),
            r"modes=\(5, 2\)",
        ),
        (lambda: spectral_convolution(random(1, 4, 4, 2), random(4, 4, 2, 2, 2)), r"\(4, 3\) freq"),
        (
            lambda: spectral_convolution(random(1, 4, 4, 3), random(2, 2, 2, 2, 2)),
            "kernel has shape",
        ),
        (lambda: global_filter(random(1, 4, 4, 2), random(4, 2, 4)), r"expected \(4, 3, 4\)"),
        (lambda: FourierMixer(9, num_blocks=2, rngs=nnx.Rngs(0)), "features=9 is not a multiple"),
        (lambda: SpectralConvolution(2, 2, (0, 2), rngs=nnx.Rngs(0)), "modes=0; expected a pos"),
        (lambda: GlobalFilter(2, (4, 4), rngs=nnx.Rngs(0))(random(1, 4, 5, 2)), "maps of"),
    ],
)
def test_what_does_not_fit_is_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()
