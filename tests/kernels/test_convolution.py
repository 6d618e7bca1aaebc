import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from spectral_flax import layers
from spectral_flax.functional import convolution
from spectral_flax.kernels import plain_convolutions


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize(
    ("window", "padding", "dilation"), [(1, 0, 1), (1, 1, 1), (3, 1, 1), (3, 2, 2), (2, 0, 1)]
)
@pytest.mark.parametrize("rank", [2, 3])
def test_every_form_is_the_convolution(rank, window, padding, dilation, strides, groups):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *(5, 6, 7)[:rank], 8)).astype(np.float32)
    kernel = rng.standard_normal((*(window,) * rank, 8 // groups, 16)).astype(np.float32)
    spatial = "DHW"[:rank]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    args = ((strides,) * rank, ((padding, padding),) * rank)
    options = dict(rhs_dilation=(dilation,) * rank, feature_group_count=groups)
    ours = convolution(x, kernel, *args, **options)
    wanted = lax.conv_general_dilated(x, kernel, *args, **options, dimension_numbers=numbers)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_bfloat16_stays_bfloat16(groups):
    x, kernel = jnp.ones((1, 4, 4, 8), jnp.bfloat16), jnp.ones((3, 3, 8 // groups, 8), jnp.bfloat16)
    padding = ((1, 1), (1, 1))
    y = jax.jit(lambda x, k: convolution(x, k, (1, 1), padding, feature_group_count=groups))(
        x, kernel
    )
    assert y.dtype == jnp.bfloat16


def like_lax(x, kernel, *args, gradients=False, **options):
    """Compare the result and its dtype, or also both gradients, with those of lax."""
    ours = lambda x, k: convolution(x, k, *args, **options)
    wanted = lambda x, k: lax.conv_general_dilated(x, k, *args, **options)
    y, expected = ours(x, kernel), wanted(x, kernel)
    assert y.dtype == expected.dtype
    np.testing.assert_allclose(y, expected, atol=1e-4)
    if gradients:
        both = (
            jax.jit(jax.grad(lambda x, k, f=f: jnp.square(f(x, k)).sum(), (0, 1)))(x, kernel)
            for f in (ours, wanted)
        )
        for ours, wanted in zip(*both, strict=True):
            np.testing.assert_allclose(ours, wanted, atol=1e-2)


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "numbers",
    [
        ("NCHW", "OIHW", "NCHW"),
        ("NHWC", "HWIO", "NHWC"),
        ("CNHW", "IWHO", "HNWC"),
        lax.ConvDimensionNumbers((0, 1, 2, 3), (1, 0, 2, 3), (0, 3, 1, 2)),
    ],
)
def test_every_order_of_axes_is_that_of_lax(numbers, groups):
    given = isinstance(numbers, lax.ConvDimensionNumbers)
    inputs, window, _ = ("NCHW", "IOHW", "NHWC") if given else numbers
    x = normal(*(dict(N=2, C=4, H=7, W=8)[axis] for axis in inputs))
    kernel = normal(*(dict(O=6, I=4 // groups, H=3, W=2)[axis] for axis in window))
    options = dict(dimension_numbers=numbers, feature_group_count=groups)
    like_lax(x, kernel, (1, 2), "SAME", **options, gradients=given)


LAST = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("window", [(3, 2), (1, 1)])
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", ((2, 0), (1, 3))])
def test_every_form_of_padding_is_that_of_lax(padding, window):
    like_lax(normal(2, 7, 8, 4), normal(*window, 4, 6), (2, 1), padding, (1, 1), (1, 3), **LAST)


@pytest.mark.parametrize(
    ("options", "fan_in"),
    [
        (dict(lhs_dilation=(2, 3)), 4),
        (dict(lhs_dilation=(2, 3), rhs_dilation=(1, 2), feature_group_count=2), 2),
        (dict(batch_group_count=2), 4),
        (dict(preferred_element_type=np.float32, feature_group_count=2), 2),
        (dict(precision=(lax.Precision.HIGHEST, lax.Precision.DEFAULT)), 4),
        (dict(precision=["highest", "default"], feature_group_count=4), 1),
    ],
)
@pytest.mark.parametrize("window", [(3, 2), (1, 1)])
def test_every_other_option_is_that_of_lax(window, options, fan_in):
    x, kernel = normal(4, 5, 6, 4), normal(*window, fan_in, 8)
    like_lax(x, kernel, (1, 1), ((1, 0), (1, 1)), **options, **LAST, gradients=True)
    like_lax(x, kernel, (1, 1), ((0, 0), (0, 0)), **options, **LAST)


@pytest.mark.parametrize("dtype", [np.int32, np.complex64])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("window", [(3, 2), (1, 1)])
def test_integers_and_complex_numbers_are_convolved_as_by_lax(window, groups, dtype):
    x, kernel = 9 * normal(2, 5, 6, 4), 9 * normal(*window, 4 // groups, 8)
    args = (1, 1), ((0, 0), (0, 0))
    like_lax(x.astype(dtype), kernel.astype(dtype), *args, **LAST, feature_group_count=groups)


def test_negative_padding_crops_the_input():
    x, kernel = normal(2, 6, 7, 4), normal(3, 2, 4, 6)
    y = convolution(x, kernel, 1, ((-1, 1), (0, -2)))
    wanted = convolution(x[:, 1:, :-2], kernel, 1, ((0, 1), (0, 0)))
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_one_integer_stands_for_all_axes():
    x, kernel = normal(2, 6, 7, 4), normal(3, 2, 4, 6)
    wanted = convolution(x, kernel, (2, 2), ((1, 1), (1, 1)), None, (2, 2))
    np.testing.assert_array_equal(convolution(x, kernel, 2, 1, 1, 2), wanted)


X, KERNEL = normal(4, 5, 6, 4), normal(3, 2, 4, 6)


@pytest.mark.parametrize(
    ("args", "options", "error", "message"),
    [
        ((None, KERNEL, 1, 0), {}, TypeError, "x is None; expected an array"),
        (([[1.0]], KERNEL, 1, 0), {}, TypeError, "x is of type list"),
        ((X, 3, 1, 0), {}, TypeError, "kernel is of type int"),
        ((X.astype(str), KERNEL, 1, 0), {}, TypeError, "x has dtype <U32"),
        ((X.astype(np.float16), KERNEL, 1, 0), {}, TypeError, "dtype float16 and kernel float32"),
        ((X[0], KERNEL, 1, 0), {}, ValueError, "expected one rank"),
        ((X[..., :3], KERNEL, 1, 0), {}, ValueError, "x has 3 channels; expected 4"),
        ((X, KERNEL, (1,), 0), {}, ValueError, r"window_strides=\(1,\); expected"),
        ((X, KERNEL, 1.5, 0), {}, ValueError, "window_strides=1.5; expected"),
        ((X, KERNEL, 0, 0), {}, ValueError, r"window_strides=\(0, 0\); expected"),
        ((X, KERNEL, 1, 0, None, "ab"), {}, ValueError, "rhs_dilation='ab'; expected"),
        ((X, KERNEL, 1, "FULL"), {}, ValueError, "padding='FULL'; expected 'SAME'"),
        ((X, KERNEL, 1, ((1, 2),)), {}, ValueError, r"padding=\(\(1, 2\),\); expected"),
        ((X, KERNEL, 1, None), {}, ValueError, "padding=None; expected"),
        ((X, KERNEL, 1, "SAME", 2), {}, ValueError, "padding='SAME' with lhs_dilation"),
        ((X, KERNEL, 1, 0), dict(feature_group_count=0), ValueError, "feature_group_count=0"),
        ((X, KERNEL[:, :, :1], 1, 0), dict(feature_group_count=4), ValueError, "6 features"),
        ((X[:3], KERNEL, 1, 0), dict(batch_group_count=2), ValueError, "x has 3 examples"),
    ],
)
def test_what_does_not_fit_is_named(args, options, error, message):
    with pytest.raises(error, match=message):
        convolution(*args, **options)


class Two(nnx.Module):
    """A grouped, a square and a pointwise convolution, each in a form of its own here."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.grouped = layers.conv(8, 8, 3, feature_group_count=2, rngs=rngs)
        self.square = layers.conv(8, 64, 3, rngs=rngs)
        self.wide = layers.conv(64, 64, 3, rngs=rngs)
        self.point = layers.conv(64, 4, 1, rngs=rngs)

    def __call__(self, x):
        return self.point(self.wide(self.square(self.grouped(x))))


def test_one_switch_leaves_jaxs_own_convolutions_alone():
    graphdef, state = nnx.split(Two())
    loss = lambda state, x: jnp.sin(nnx.merge(graphdef, state, copy=True)(x)).sum()
    step, x = jax.jit(jax.value_and_grad(loss)), normal(2, 24, 24, 8)
    ours = step(state, x)
    with plain_convolutions(True):
        jaxpr = str(jax.make_jaxpr(loss)(state, x))
        plain = step(state, x)  # the program that is there already is not taken for this one
        text = step.lower(state, x).as_text()
    assert jaxpr.count("conv_general_dilated[") == 4 and "convolution_form" not in jaxpr
    assert "convolution_form" in str(jax.make_jaxpr(loss)(state, x))
    assert text != step.lower(state, x).as_text()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
