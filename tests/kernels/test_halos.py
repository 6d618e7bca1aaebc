"""Convolutions of maps whose rows lie on a mesh axis: those of one device, and no map gathered."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from rows_over_devices import check_equal_to_one_device, draw

from spectral_flax.functional import convolution
from spectral_flax.kernels import whole_maps
from spectral_flax.kernels.convolution import mirrored_convolution

# Rows, then options: those of stride and dilation divide, those of 7 and 10 do not.
GROUPED = [
    (8, dict(window_strides=1, padding=1)),
    (7, dict(window_strides=2, padding=1)),
    (10, dict(window_strides=(3, 1), padding=((2, 0), (1, 1)))),
    (9, dict(window_strides=1, padding=2, rhs_dilation=2)),
]


@pytest.mark.parametrize(("height", "options"), GROUPED, ids=str)
def test_grouped_convolutions_take_rows_from_neighbours(height, options):
    function = partial(convolution, feature_group_count=2, **options)
    with whole_maps(False):
        found = check_equal_to_one_device(function, draw(2, height, 5, 4), draw(3, 3, 2, 6))
    assert set(found) <= {"collective-permute", "all-reduce"}


# PyTorch's placement: a window of 3 with one row more at the end, and one of 4.
TRANSPOSED = [(8, 3, (1, 2)), (7, 3, (1, 2)), (8, 4, (2, 2)), (5, 4, (2, 2))]


@pytest.mark.parametrize(("height", "size", "padding"), TRANSPOSED, ids=str)
def test_transposed_convolutions_take_rows_from_neighbours(height, size, padding):
    function = partial(convolution, window_strides=1, padding=(padding, padding), lhs_dilation=2)
    with whole_maps(False):
        found = check_equal_to_one_device(function, draw(2, height, 5, 4), draw(size, size, 4, 3))
    assert set(found) <= {"collective-permute", "all-reduce"}


@pytest.mark.parametrize("height", [4, 8, 14])
def test_strided_convolutions_have_gradients_of_one_device_even_with_rows_fewer_than_devices(
    height,
):
    function = partial(convolution, window_strides=2, padding=1)
    with whole_maps(False):
        check_equal_to_one_device(function, draw(2, height, 5, 4), draw(3, 3, 4, 6))


# Rows and windows; some devices of the last two have none.
MIRRORED = [(8, 3, 1, 1), (7, 3, 2, 1), (10, 7, 1, 1), (9, 3, 1, 2), (4, 7, 1, 1), (5, 3, 1, 1)]


@pytest.mark.parametrize(("height", "size", "stride", "dilation"), MIRRORED, ids=str)
def test_rows_beyond_a_map_are_mirrored_by_the_devices_that_have_them(
    height, size, stride, dilation
):
    margin = dilation * (size - 1) // 2
    x, kernel = draw(2, height, 5, 4), draw(size, 3, 4, 3)
    options = dict(window_strides=(stride, stride), rhs_dilation=(dilation, 1))
    function = partial(mirrored_convolution, padding=((margin, margin), (1, 1)), **options)
    with whole_maps(False):
        found = check_equal_to_one_device(function, x, kernel)
    assert set(found) <= {"collective-permute", "all-reduce"}
    padded = jnp.pad(x, [(0, 0), (margin, margin), (0, 0), (0, 0)], mode="reflect")
    expected = convolution(padded, kernel, padding=((0, 0), (1, 1)), **options)
    np.testing.assert_allclose(function(x, kernel), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "size", "pads"), [(8, 3, (2, 2)), (3, 7, (3, 3)), (8, 7, (1, 2))], ids=str
)
def test_padding_that_cannot_be_mirrored_so_is_refused(height, size, pads):
    x, kernel = draw(2, height, 5, 4), draw(size, 3, 4, 3)
    with pytest.raises(ValueError, match=r"of rows by reflection, for \d rows and windows of"):
        mirrored_convolution(x, kernel, (1, 1), (pads, (1, 1)), rhs_dilation=(1, 1))


def test_grouped_convolutions_of_videos_do_too():
    function = partial(convolution, window_strides=1, padding=1, feature_group_count=2)
    with whole_maps(False):
        check_equal_to_one_device(function, draw(2, 3, 8, 5, 4), draw(3, 3, 3, 2, 4))
