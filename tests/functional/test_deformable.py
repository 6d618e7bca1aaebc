"""Deformable convolution against its definition, its gradients, and what it refuses."""

import functools

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from spectral_flax.functional import convolution, deformable_convolution


def case(n=2, size=(6, 5), features=3, out=4, window=(3, 3), taken=None, dtype=np.float32, far=2.0):
    """An input, a kernel, displacements of a few pixels (some beyond the border), factors."""
    rng = np.random.default_rng(0)
    taps, taken = window[0] * window[1], taken or size
    x, kernel = rng.normal(size=(n, *size, features)), rng.normal(size=(*window, features, out))
    offsets = far * rng.normal(size=(n, *taken, 2 * taps))
    mask = rng.uniform(size=(n, *taken, taps))
    return [np.asarray(a, dtype) for a in (x, kernel, offsets, mask)]


def by_definition(x, kernel, offsets, mask, strides=(1, 1), padding=(0, 0), kernel_dilation=(1, 1)):
    height, width = x.shape[1:3]
    result = np.zeros((*offsets.shape[:3], kernel.shape[-1]))

    def pixel(i, row, column):
        inside = 0 <= row < height and 0 <= column < width
        return x[i, row, column] if inside else np.zeros(x.shape[-1])

    for i, r, c in np.ndindex(offsets.shape[:3]):
        for tap, (k, m) in enumerate(np.ndindex(kernel.shape[:2])):
            dy, dx = offsets[i, r, c, 2 * tap : 2 * tap + 2]
            y = r * strides[0] - padding[0] + k * kernel_dilation[0] + dy
            z = c * strides[1] - padding[1] + m * kernel_dilation[1] + dx
            top, left = int(np.floor(y)), int(np.floor(z))
            for row, column in np.ndindex(2, 2):
                weight = (1 - abs(y - top - row)) * (1 - abs(z - left - column))
                value = weight * mask[i, r, c, tap] * pixel(i, top + row, left + column)
                result[i, r, c] += value @ kernel[k, m]
    return result


GEOMETRIES = {
    "plain": (dict(padding=(1, 1)), (6, 5)),
    "strided": (dict(strides=(2, 1), padding=(1, 0)), (3, 3)),
    "dilated": (dict(kernel_dilation=(2, 2), padding=(2, 2)), (6, 5)),
}


@pytest.mark.parametrize("far", [0.4, 6.0])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_is_its_definition_within_and_beyond_the_border(geometry, far):
    options, taken = GEOMETRIES[geometry]
    given = case(taken=taken, far=far)
    y = deformable_convolution(*given, **options)
    np.testing.assert_allclose(y, by_definition(*given, **options), atol=2e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_without_displacements_it_is_a_convolution(geometry):
    options, taken = GEOMETRIES[geometry]
    x, kernel, offsets, _ = case(taken=taken)
    y = deformable_convolution(x, kernel, 0 * offsets, **options)
    numbers = options.get("strides", (1, 1)), [(p, p) for p in options["padding"]]
    wanted = convolution(x, kernel, *numbers, rhs_dilation=options.get("kernel_dilation"))
    np.testing.assert_allclose(y, wanted, atol=2e-5)


def test_whole_displacements_move_the_map():
    x, kernel, offsets, _ = case()
    moved = np.broadcast_to(np.tile([1.0, -2.0], 9), offsets.shape)
    y = deformable_convolution(x, kernel, moved, padding=(1, 1))
    plain = convolution(np.pad(x, ((0, 0), (0, 1), (2, 0), (0, 0))), kernel, (1, 1), [(1, 1)] * 2)
    np.testing.assert_allclose(y, plain[:, 1:, :-2], atol=2e-5)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        given = case(n=1, size=(4, 3), features=2, out=2, far=0.7, dtype=np.float64)
        function = functools.partial(deformable_convolution, padding=(1, 1))
        check_grads(function, given, order=1, modes=("fwd", "rev"), eps=1e-6)


def test_under_jit_and_vmap_and_in_bfloat16():
    given = case()
    function = functools.partial(deformable_convolution, padding=(1, 1))
    wanted = function(*given)
    x, kernel, offsets, mask = given
    each = jax.vmap(lambda x, o, m: function(x[None], kernel, o[None], m[None])[0])
    np.testing.assert_allclose(jax.jit(each)(x, offsets, mask), wanted, atol=2e-5)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        y = function(*(jnp.asarray(a, jnp.bfloat16) for a in given))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), wanted, atol=0.3)
    assert function(*(a[:0] for a in (x,)), kernel, offsets[:0], mask[:0]).shape == (0, 6, 5, 4)


def test_no_device_asks_another_for_pixels(mesh):
    x, kernel, offsets, mask = case(n=8)
    function = functools.partial(deformable_convolution, padding=(1, 1))
    gradient = jax.grad(lambda *a: jnp.square(function(*a)).sum(), (0, 1, 2, 3))
    split, copied = (functools.partial(f, mesh) for f in (collectives.split, collectives.copied))
    given = split(x), copied(kernel), split(offsets), split(mask)
    assert collectives.count(gradient, *given) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(offsets=np.ones((2, 6, 5, 9))), r"offsets has shape .*expected \(2, 6, 5, 18\)"),
        (dict(offsets=np.ones((2, 5, 5, 18))), r"offsets has shape .*expected \(2, 6, 5, 18\)"),
        (dict(mask=np.ones((2, 6, 5, 18))), r"mask has shape .*expected \(2, 6, 5, 9\)"),
        (dict(kernel=np.ones((3, 3, 4, 4))), r"x and kernel have shapes"),
        (dict(x=np.ones((2, 6, 0, 3))), "no empty axis"),
        (dict(strides=(0, 1)), r"strides=\(0, 1\); expected two integers of at least 1"),
        (dict(padding=(1,)), "padding"),
        (dict(padding=(0, 0), kernel_dilation=(3, 3)), "does not fit in it"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = dict(zip(("x", "kernel", "offsets", "mask"), case(), strict=True), padding=(1, 1))
    with pytest.raises(ValueError, match=message):
        deformable_convolution(**given | change)
