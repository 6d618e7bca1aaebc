# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from spectral_flax.kernels.winograd import convolution_3x3


def plain(x, kernel, padding):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arrays(shape, features, dtype):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, shape[-1], features))
    return jnp.asarray(rng.standard_normal(shape), dtype), jnp.asarray(kernel, dtype)


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 0), (2, 1)), ((3, 0), (0, 0))])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (3, 3), (4, 5)])
def test_it_is_the_convolution(size, padding, outputs):
    with jax.enable_x64(True):
        x, kernel = arrays((2, *size, 4), 5, jnp.float64)
        expected = plain(x, kernel, padding)
        y = convolution_3x3(x, kernel, padding, outputs=outputs)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("outputs", [2, 4])
def test_a_flipped_kernel(outputs, transposed):
    with jax.enable_x64(True):
        x, kernel = arrays((1, 9, 6, 4), 5, jnp.float64)
        given = kernel[::-1, ::-1].swapaxes(2, 3) if transposed else kernel
        padding = ((2, 2), (1, 1))
        y = convolution_3x3(x, given, padding, transposed=transposed, outputs=outputs)
        np.testing.assert_allclose(y, plain(x, kernel, padding), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("outputs", "times", "relative"), [(2, 8, 3e-6), (4, 16, 6e-6)])
def test_rounding_stays_near_that_of_the_plain_sum(outputs, times, relative):
    x, kernel = arrays((2, 16, 16, 256), 64, jnp.float32)
    padding = ((1, 1), (1, 1))
    with jax.enable_x64(True):
        exact = np.asarray(plain(x.astype(jnp.float64), kernel.astype(jnp.float64), padding))
    minimal = lambda *arrays: convolution_3x3(*arrays, outputs=outputs)
    ours, theirs = (
        np.abs(np.asarray(f(x, kernel, padding), np.float64) - exact).max()
        for f in (minimal, plain)
    )
    assert ours < times * theirs
    assert ours < relative * np.abs(exact).max()
