from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from spectral_flax.functional import (
    RealFFT,
    irfft2,
    irfft3,
    rfft2,
    rfft3,
    split_quarters,
    tile_quarters,
)

SIZES = [(8, 8), (7, 8), (8, 7), (5, 9), (13, 11), (1, 4), (4, 1), (1, 1)]
BOTH = pytest.mark.parametrize("implementation", ["fft", "matmul"])
F32 = 1e-5  # a few hundred float32 roundings of values of size 1


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def packed(z, groups):
    """A complex array in our packing, in NumPy."""
    z = z.reshape(*z.shape[:-1], groups, 1, -1)
    return np.concatenate([z.real, z.imag], -2).reshape(*z.shape[:-3], -1)


def unpacked(s, groups):
    r = s.reshape(*s.shape[:-1], groups, 2, -1)
    return (r[..., 0, :] + 1j * r[..., 1, :]).reshape(*s.shape[:-1], -1)


@BOTH
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_irfft2_inverts_rfft2(size, groups, implementation):
    x = draw(2, *size, 6).astype(np.float32)
    options = dict(implementation=implementation)
    there_and_back = lambda x: irfft2(rfft2(x, groups, **options), size[1], groups, **options)
    np.testing.assert_allclose(jax.jit(there_and_back)(x), x, atol=F32)


NORMS = {"ortho": range(1, 34), "backward": (1, 6, 7), "forward": (1, 6, 7)}


@BOTH
@pytest.mark.parametrize("norm", NORMS)
def test_every_size_agrees_with_numpy_in_float64_even_for_non_hermitian_spectra(
    norm, implementation
):
    options = dict(norm=norm, implementation=implementation)

    @partial(jax.jit, static_argnums=2)
    def both(x, s, width):
        return rfft2(x, 2, **options), irfft2(s, width, 2, **options)

    with jax.enable_x64(True):
        for n in NORMS[norm]:
            h, w = n, 34 - n if n % 2 else n
            x, s = draw(h, w, 4, seed=n), draw(h, w // 2 + 1, 8, seed=n)
            forward, back = both(x, s, w)
            spectrum = np.fft.rfft2(x, axes=(0, 1), norm=norm)
            inverse = np.fft.irfft2(unpacked(s, 2), s=(h, w), axes=(0, 1), norm=norm)
            scale = max(np.abs(inverse).max(), 1)
            np.testing.assert_allclose(forward, packed(spectrum, 2), atol=1e-11)
            np.testing.assert_allclose(back, inverse, atol=1e-12 * scale)


@BOTH
@pytest.mark.parametrize("size", [(2, 3, 4), (3, 5, 7), (1, 4, 6)], ids=str)
def test_the_3d_transform_agrees_with_numpy_and_inverts(size, implementation):
    options = dict(implementation=implementation)
    with jax.enable_x64(True):
        x = draw(2, *size, 4)
        both = jax.jit(lambda x: (s := rfft3(x, 2, **options), irfft3(s, size[-1], 2, **options)))
        s, y = both(x)
        wanted = np.fft.rfftn(x, axes=(1, 2, 3), norm="ortho")
        np.testing.assert_allclose(s, packed(wanted, 2), atol=1e-12)
        np.testing.assert_allclose(y, x, atol=1e-12)


@BOTH
@pytest.mark.parametrize(("size", "columns"), [((5, 8), 3), ((3, 4, 7), 2), ((4, 6), 4)], ids=str)
def test_the_first_columns_of_a_spectrum_stand_for_one_with_zeros(size, columns, implementation):
    options = dict(groups=2, implementation=implementation)
    few = RealFFT(len(size), columns=columns, **options)
    every = RealFFT(len(size), **options)
    x = draw(2, *size, 4).astype(np.float32)
    s = every.forward(x)[..., :columns, :]
    np.testing.assert_allclose(jax.jit(few.forward)(x), s, atol=F32)
    zeros = [(0, 0)] * (s.ndim - 2) + [(0, size[-1] // 2 + 1 - columns), (0, 0)]
    full = every.inverse(jnp.pad(s, zeros), size)
    np.testing.assert_allclose(few.inverse(s, size), full, atol=F32)


@BOTH
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_parseval_the_orthonormal_spectrum_has_the_energy_of_the_map(size, implementation):
    x = draw(*size, 3).astype(np.float32)
    s = np.asarray(jax.jit(partial(rfft2, implementation=implementation))(x))
    twice = np.full(size[1] // 2 + 1, 2.0)  # a frequency and its conjugate
    twice[0] = 1
    if size[1] % 2 == 0:
        twice[-1] = 1
    energy = (np.square(s) * twice[:, None]).sum()
    np.testing.assert_allclose(energy, np.square(x).sum(), rtol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cyclic_shift_keeps_every_amplitude(size):
    x = draw(2, *size, 6).astype(np.float32)
    amplitude = jax.jit(lambda x: jnp.hypot(*jnp.split(rfft2(x), 2, axis=-1)))
    np.testing.assert_allclose(amplitude(jnp.roll(x, (2, 3), (1, 2))), amplitude(x), atol=F32)


@BOTH
def test_the_transform_is_linear(implementation):
    x, y = draw(2, 1, 6, 7, 3).astype(np.float32)
    f = lambda x: rfft2(x, implementation=implementation)
    np.testing.assert_allclose(f(2 * x - 3 * y), 2 * f(x) - 3 * f(y), atol=F32)


@BOTH
@pytest.mark.parametrize("size", [(3, 4), (4, 5)], ids=str)
def test_gradients_agree_with_finite_differences(size, implementation):
    with jax.enable_x64(True):
        options = dict(implementation=implementation)

        def through(x):
            s = jnp.tanh(rfft2(x, 2, **options))  # no longer Hermitian
            return irfft2(s, size[1], 2, **options)

        check_grads(jax.jit(through), (draw(1, *size, 2),), order=2, modes=("fwd", "rev"))


@BOTH
def test_vmap_equals_a_loop(implementation):
    x = draw(3, 2, 5, 6, 4).astype(np.float32)
    f = lambda x: rfft2(x, 2, implementation=implementation)
    looped = np.stack([f(a) for a in x])
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(x), looped, atol=F32)
    along_1 = jax.jit(jax.vmap(f, 1, 1))(x.swapaxes(0, 1))
    np.testing.assert_allclose(along_1, looped.swapaxes(0, 1), atol=F32)
    np.testing.assert_allclose(jax.jit(f)(x), f(x), atol=F32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bit_maps_are_transformed_in_float32(dtype):
    x = jnp.asarray(draw(2, 7, 14, 4), dtype)
    s = rfft2(x)
    assert s.dtype == dtype
    np.testing.assert_array_equal(s, rfft2(x.astype(jnp.float32)).astype(dtype))
    assert irfft2(s, 14).dtype == dtype


def test_the_matmul_form_can_compute_in_bfloat16():
    x = jnp.asarray(draw(2, 14, 14, 8), jnp.float32)
    exact, low = rfft2(x), rfft2(x, dtype=jnp.bfloat16)
    assert low.dtype == jnp.float32
    relative = jnp.linalg.norm((low - exact).ravel()) / jnp.linalg.norm(exact.ravel())
    assert 1e-4 < relative < 1e-2  # two roundings to 8 bits


def test_a_spectrum_is_packed_by_group():
    x = jnp.asarray(draw(4, 6, 6), jnp.float32)
    first = rfft2(x[..., :3])  # the first of two groups holds the first half of the channels
    np.testing.assert_allclose(rfft2(x, 2)[..., :6], first, atol=F32)


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 7), (1, 1), (1, 2)], ids=str)
def test_quarters_hold_every_position_in_its_place(size):
    h, w = (-(-n // 2) for n in size)
    x = jnp.asarray(draw(*size, 2))
    padded = np.pad(x, [(0, 2 * h - size[0]), (0, 2 * w - size[1]), (0, 0)], mode="edge")
    wanted = [padded[i : i + h, j : j + w] for j in (0, w) for i in (0, h)]
    np.testing.assert_array_equal(split_quarters(x), np.concatenate(wanted, -1))
    tiled = np.tile(padded[:h, :w], (2, 2, 1))[: size[0], : size[1]]
    np.testing.assert_array_equal(tile_quarters(padded[:h, :w], *size), tiled)


@BOTH
@pytest.mark.parametrize("shape", [(8, 6, 2), (2, 7, 9, 3), (2, 3, 1, 5, 2)], ids=str)
def test_a_transform_of_quarters_is_that_of_maps_that_were_cut(shape, implementation):
    x = jnp.asarray(draw(*shape))
    plain = RealFFT(2, 2, implementation=implementation)
    quarters = RealFFT(2, 2, implementation=implementation, quarters=True)
    s = plain.forward(split_quarters(x))
    np.testing.assert_array_equal(quarters.forward(x), s)
    halves = [-(-n // 2) for n in shape[-3:-1]]
    tiled = tile_quarters(plain.inverse(s, halves), *shape[-3:-1])
    np.testing.assert_array_equal(quarters.inverse(s, shape[-3:-1]), tiled)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rfft2(jnp.zeros((4, 4))), ValueError, r"shape \(4, 4\); expected.*\[H, W, C\]"),
        (lambda: rfft3(jnp.zeros((4, 4, 1))), ValueError, r"\[T, H, W, C\]"),
        (lambda: rfft2(jnp.zeros((2, 0, 4, 1))), ValueError, "no empty spatial axis"),
        (lambda: rfft2(jnp.zeros((4, 4, 1), jnp.int32)), TypeError, "int32; expected a real"),
        (lambda: rfft2(jnp.zeros((4, 4, 1), jnp.complex64)), TypeError, "complex64"),
        (lambda: rfft2(jnp.zeros((4, 4, 3)), 2), ValueError, "3, do not divide into groups=2"),
        (lambda: irfft2(jnp.zeros((4, 3, 6)), 4, 2), ValueError, "3, do not divide into groups=2"),
        (lambda: irfft2(jnp.zeros((4, 3, 2)), 7), ValueError, "3 frequencies.*width=7"),
        (
            lambda: RealFFT(columns=4).forward(jnp.zeros((4, 5, 1))),
            ValueError,
            "columns=4; .*1 to 3",
        ),
        (lambda: RealFFT(columns=0).inverse(jnp.zeros((4, 3, 2)), (4, 4)), ValueError, "columns=0"),
        (
            lambda: RealFFT(quarters=True).inverse(jnp.zeros((4, 3, 2)), (8, 11)),
            ValueError,
            r"3 frequencies.*ceil\(width/2\)//2 \+ 1 for width=11",
        ),
        (
            lambda: RealFFT(quarters=True).inverse(jnp.zeros((4, 3, 2)), (9, 8)),
            ValueError,
            r"4 rows; expected half of those of sizes=\(9, 8\), rounded up",
        ),
        (
            lambda: RealFFT(quarters=True).inverse(jnp.zeros((4, 3, 2)), (8,)),
            ValueError,
            r"4 rows; expected half of those of sizes=\(8,\)",
        ),
        (lambda: rfft2(jnp.zeros((4, 4, 1)), norm="orto"), ValueError, "norm='orto'; expected"),
        (
            lambda: rfft2(jnp.zeros((4, 4, 1)), implementation="cufft"),
            ValueError,
            "expected 'auto'",
        ),
        (
            lambda: rfft2(jnp.zeros((4, 4, 1)), implementation="fft", dtype=jnp.bfloat16),
            ValueError,
            "needs implementation='matmul'",
        ),
        (lambda: rfft2(jnp.zeros((4, 4, 1)), axis_name="spcae"), ValueError, "axis_name='spcae'"),
        (lambda: rfft2(jnp.zeros((4, 4, 1)), axis_name=0), ValueError, "axis_name=0; expected a"),
        (lambda: rfft2(jnp.zeros((4, 4, 1)), axis_name=["s"]), ValueError, "or a tuple of them"),
        (lambda: tile_quarters(jnp.zeros((2, 2, 1)), 5, 4), ValueError, "half of 5 x 4"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("transform", ["forward", "gradient", "two platforms at once"])
@pytest.mark.parametrize(("sides", "expected"), [((8, 16), 0), ((8, 17), 1), ((20, 20), 1)])
def test_auto_takes_matrices_where_they_are_faster(sides, expected, transform):
    """On the CPU, where this was measured: docs/performance.md."""
    x = jnp.zeros((2, *sides, 3))

    def transforms(*platforms):
        function = lambda x: rfft2(x)
        if transform == "gradient":
            function = jax.grad(lambda x: jnp.sum(rfft2(x)))
        exported = jax.export.export(jax.jit(function), platforms=platforms)(x).mlir_module()
        assert len(platforms) > 1 or "stablehlo.case" not in exported
        return min(exported.count("stablehlo.fft"), 1)

    if transform == "two platforms at once":
        assert transforms("cpu", "tpu") == transforms("cuda", "cpu") == 1
        return
    assert transforms("cpu") == expected
    assert transforms("tpu") == transforms("cuda") == 1
