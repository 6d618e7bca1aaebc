# SPDX-License-Identifier: Apache-2.0
"""One convolution, one batch normalisation, one transform: the least that both libraries do."""

from flax import nnx

from spectral_flax import layers
from spectral_flax.functional import irfft2, rfft2
from spectral_flax.layers.conv import conv


def convolution_3x3(shape, **numerics):
    return conv(shape[-1], shape[-1], 3, padding=1, **numerics)


def convolution_1x1(shape, **numerics):
    return conv(shape[-1], shape[-1], **numerics)


def batch_normalisation(shape, rngs=None, **numerics):
    return layers.BatchNorm(shape[-1], **numerics)


def fft_and_back(shape, dtype=None, rngs=None):
    return _ThereAndBack()


class _ThereAndBack(nnx.Module):
    """A spectrum and its inverse, by the FFT."""

    def __call__(self, x):
        return irfft2(rfft2(x, implementation="fft"), x.shape[-2], implementation="fft")
