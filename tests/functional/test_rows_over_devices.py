"""Functions of maps whose rows lie on a mesh axis: those of one device, and no map gathered."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from rows_over_devices import check_equal_to_one_device, draw, mesh

from spectral_flax.functional import (
    RealFFT,
    irfft2,
    irfft3,
    pairs,
    rfft2,
    rfft3,
    spectral_convolution,
)
from spectral_flax.functional.padding import reflect
from spectral_flax.kernels import whole_maps


def through_spectrum(x, axis_name=None, implementation="fft"):
    options = dict(axis_name=axis_name, implementation=implementation)
    forward, inverse = (rfft2, irfft2) if x.ndim == 4 else (rfft3, irfft3)
    return inverse(jnp.tanh(forward(x, 2, **options)), x.shape[-2], 2, **options)


CASES = [
    ((4, 8, 12, 4), "fft"),
    ((2, 7, 9, 4), "fft"),
    ((2, 3, 6, 5, 4), "fft"),
    ((2, 7, 9, 4), "matmul"),
]


@pytest.mark.parametrize(("shape", "implementation"), CASES, ids=str)
def test_a_transform_pair_moves_a_map_twice(shape, implementation):
    found = check_equal_to_one_device(
        partial(through_spectrum, implementation=implementation), draw(*shape)
    )
    *others, height, width, features = shape
    rows, columns = (-(-n // 4) for n in (height, width // 2 + 1))
    local = np.prod(others) // 2 * 4 * rows * columns * features * 16  # bytes of complex numbers
    assert found["all-to-all"] == (4, 4 * local)  # there and back, and both for the gradient


def through_quarters(x, axis_name=None, implementation="fft"):
    options = dict(axis_name=axis_name, implementation=implementation, quarters=True)
    transform, sizes = RealFFT(x.ndim - 2, 2, **options), list(x.shape[1:-1])
    if axis_name is not None:
        sizes[-2] *= jax.lax.axis_size(axis_name)
    return transform.inverse(jnp.tanh(transform.forward(x)), tuple(sizes))


@pytest.mark.parametrize(
    ("shape", "implementation"),
    [
        ((2, 16, 24, 2), "fft"),
        ((2, 7, 9, 2), "fft"),
        ((2, 10, 6, 1), "matmul"),
        ((2, 3, 7, 6, 1), "fft"),
    ],
    ids=str,
)
def test_quarters_move_by_the_transforms_of_them(shape, implementation):
    function = partial(through_quarters, implementation=implementation)
    found = check_equal_to_one_device(function, draw(*shape))
    _, *others, height, width, features = shape
    rows, columns = (-(-n // 4) for n in (height, -(-width // 2) // 2 + 1))
    local = 4 * np.prod(others, dtype=int) * rows * columns * features * 16  # of complex numbers
    # Halves of rows that go to the spectrum, and all channels that come back, and their gradients.
    assert found["all-to-all"] == (4, 2 * local * (2 + 4))


def test_a_spectral_convolution_moves_what_it_keeps():
    kernel = draw(3, 2, 2, 4, 4)
    found = check_equal_to_one_device(spectral_convolution, draw(2, 7, 12, 4), kernel)
    local = 2 * 4 * 4 * 16  # rows, columns (two, padded) and channels of complex numbers
    assert found["all-to-all"] == (4, 4 * local)


@pytest.mark.parametrize("through", [through_spectrum, through_quarters])
def test_inside_shard_map_the_axis_is_named(through):
    x = draw(2, 8, 12, 4)
    function = partial(through, implementation="auto")
    part = jax.shard_map(
        partial(function, axis_name="space"),
        mesh=mesh(),
        in_specs=P("data", "space"),
        out_specs=P("data", "space"),
    )
    np.testing.assert_allclose(jax.jit(part)(x), function(x), atol=1e-6)


def test_reflection_moves_rows_as_many_on_any_map():
    moved = []
    with whole_maps(False):
        for height in (16, 32):
            found = check_equal_to_one_device(
                partial(reflect, margins=(2, 3)), draw(2, height, 6, 4)
            )
            moved.append(sum(kind.bytes for kind in found.values()))
    assert moved[0] == moved[1]


def through_pair(pair, x):
    return pair.inverse(jnp.tanh(pair.forward(x)), x.shape[1:3])


def test_products_with_fixed_matrices_move_a_map_twice():
    found = check_equal_to_one_device(partial(through_pair, pairs.Cosine(3)), draw(2, 3, 8, 6, 4))
    assert found["all-to-all"].count == 4
