from functools import partial

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import apply
from flax import nnx
from parity_checks import PRECISIONS, check_parity

from spectral_flax.layers import FFC, ConvNormAct, FourierUnit, SpectralTransform


def make(module, *args, **options):
    return lambda **dtypes: module(*args, rngs=nnx.Rngs(0), **options, **dtypes)


def ffc(ratio_in, ratio_out, **options):
    return partial(FFC, ratio_in=ratio_in, ratio_out=ratio_out, **options)


CASES = {
    "fourier_unit": make(FourierUnit, 16, 16),
    "fourier_unit_groups_odd": make(FourierUnit, 16, 32, feature_group_count=2),
    "spectral_transform_lfu": make(SpectralTransform, 32, 32),
    "spectral_transform_stride2": make(SpectralTransform, 16, 32, strides=2, lfu=False),
    "ffc_bn_act_local_in": make(ConvNormAct, 16, 32, 3, strides=2, layer=ffc(0, 0.25, lfu=False)),
    "ffc_bn_act_both": make(ConvNormAct, 32, 32, 3, layer=ffc(0.5, 0.5)),
}


@pytest.mark.parametrize("x64", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_the_published_numbers_are_met(case, x64):
    check_parity(case, CASES[case], x64=x64)


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def evaluated(module):
    """The compiled function that a module is outside training."""
    return partial(apply, nnx.view(module, use_running_average=True, raise_if_not_found=False))


def test_ratio_zero_is_the_plain_convolution():
    layer = FFC(8, 16, 3, ratio_in=0, ratio_out=0, rngs=nnx.Rngs(0))
    x = draw(1, 5, 6, 8)
    np.testing.assert_array_equal(layer(x), layer.to_local(x))
    assert {p[0] for p, _ in nnx.to_flat_state(nnx.state(layer))} == {"to_local"}


@pytest.mark.parametrize("groups", [1, 2], ids=["fused", "grouped"])
def test_the_local_output_is_the_sum_of_both_convolutions(groups):
    layer = FFC(16, 32, 3, feature_group_count=groups, lfu=False, rngs=nnx.Rngs(0))
    x = draw(2, 6, 6, 16)
    y, no_global, no_local = map(evaluated(layer), (x, x.at[..., 8:].set(0), x.at[..., :8].set(0)))
    np.testing.assert_allclose(y[..., :16], (no_global + no_local)[..., :16], atol=1e-5)


def test_a_global_output_sees_the_whole_map_and_a_local_one_its_window():
    layer = evaluated(FFC(16, 64, 3, ratio_in=0.5, ratio_out=0.5, lfu=False, rngs=nnx.Rngs(0)))
    reach = jax.jit(jax.jacobian(lambda x: layer(x)[0, 4, 4]))(draw(1, 9, 9, 16))
    reach = jnp.abs(reach).max((1, 4))  # outputs, rows, columns
    window = jnp.zeros((9, 9), bool).at[3:6, 3:6].set(True)
    assert ((reach[:32] > 0).any(0) == window).all()
    assert (reach[32:].max(0) > 0).all()


@pytest.mark.parametrize("dropped", ["local_to_global", "global_to_local"])
def test_a_switch_drops_its_path_only(dropped):
    layer = evaluated(FFC(16, 16, 3, lfu=False, rngs=nnx.Rngs(0), **{dropped: False}))
    x = draw(1, 6, 6, 16)
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: layer(x)[0, 3, 3]))(x))
    weight = lambda out, inp: float(np.abs(jacobian[out, ..., inp]).max())
    local, glob = slice(0, 8), slice(8, 16)
    assert weight(local, local) > 0 and weight(glob, glob) > 0
    assert (weight(glob, local) == 0) == (dropped == "local_to_global")
    assert (weight(local, glob) == 0) == (dropped == "global_to_local")


@pytest.mark.parametrize("ratio_in", [0, 0.25])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_one_convolution_of_all_channels_is_the_two(ratio_in, dtype):
    options = dict(ratio_in=ratio_in, ratio_out=0.25, strides=2, use_bias=True, dtype=dtype)
    layer = FFC(32, 32, 3, **options, rngs=nnx.Rngs(0))
    for seed, conv in enumerate((layer.to_local, layer.local_to_global)):
        conv.bias.set_value(jax.random.normal(jax.random.key(seed), conv.bias.shape))
    x = draw(2, 7, 8, 32)
    y, apart = evaluated(layer)(x), evaluated(nnx.view(layer, fuse_outputs=False))(x)
    assert layer.fuse_outputs
    assert y.dtype == apart.dtype
    tolerance = 1e-5 if dtype is None else 0.03
    np.testing.assert_allclose(
        np.float32(y), np.float32(apart), atol=tolerance * float(jnp.abs(apart).max())
    )


@pytest.mark.parametrize("size", [(7, 9), (13, 4), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("strides", [1, 2])
def test_every_map_size_works(size, strides):
    layer = evaluated(FFC(16, 32, 3, strides=strides, rngs=nnx.Rngs(0)))
    y = layer(draw(2, *size, 16))
    assert y.shape == (2, *(-(-n // strides) for n in size), 32)
    assert jnp.isfinite(y).all()


def test_reflection_pads_signals_too():
    options = dict(ratio_in=0, ratio_out=0, rank=1, padding_mode="reflect")
    layer, x = FFC(4, 4, 3, rngs=nnx.Rngs(0), **options), jnp.asarray(draw(2, 6, 4), jnp.float32)
    padded = jnp.pad(x, [(0, 0), (1, 1), (0, 0)], mode="reflect")
    np.testing.assert_allclose(layer(x), layer.to_local(padded), rtol=1e-5)


def test_reflection_pads_by_reflection():
    layer = FFC(4, 4, 3, ratio_in=0, ratio_out=0, padding_mode="reflect", rngs=nnx.Rngs(0))
    x = draw(1, 5, 6, 4)
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    plain = FFC(4, 4, 3, ratio_in=0, ratio_out=0, padding=0, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(x), plain(padded))


def test_frames_of_a_video_are_transformed_one_by_one():
    options = dict(ratio_in=0.5, ratio_out=0.5, rank=3, rngs=nnx.Rngs(0))
    layer = evaluated(FFC(16, 16, (1, 3, 3), **options))
    x = draw(2, 3, 6, 6, 16)
    apart = jnp.concatenate([layer(x[:, t : t + 1]) for t in range(3)], 1)
    np.testing.assert_allclose(layer(x), apart, atol=1e-5)


@pytest.mark.parametrize("groups, ratio", [(1, 0.5), (4, 0.5), (1, 0.25)])
@pytest.mark.parametrize("implementation", ["fft", "matmul"])
def test_no_gather_on_a_mesh(mesh, implementation, groups, ratio):
    options = dict(
        feature_group_count=groups, ratio_in=ratio, ratio_out=ratio, implementation=implementation
    )
    layer = FFC(64, 64, 3, **options, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def loss(params, rest, x):
        return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(x)).sum()

    arrays = collectives.copied(mesh, (params, rest))
    x = collectives.split(mesh, draw(8, 4, 4, 64))
    assert collectives.count(jax.value_and_grad(loss), *arrays, x) == 0


@pytest.mark.parametrize("implementation", ["fft", "matmul"])
def test_bfloat16_follows_float32(implementation):
    options = dict(implementation=implementation, rngs=nnx.Rngs(0))
    x = draw(1, 7, 8, 32)
    exact = evaluated(FFC(32, 32, 3, **options))(x)
    low = evaluated(FFC(32, 32, 3, dtype=jnp.bfloat16, **options | dict(rngs=nnx.Rngs(0))))(x)
    assert low.dtype == jnp.bfloat16
    assert jnp.abs(low - exact).max() < 0.05 * jnp.abs(exact).max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: FFC(16, 16, ratio_in=1.5, rngs=r), r"ratio_in=1.5 lies outside \[0, 1\]"),
        (lambda r: FFC(16, 16, ratio_out=-0.1, rngs=r), "ratio_out=-0.1"),
        (lambda r: FFC(16, 16, ratio_in=0.01, rngs=r), "leaves the global path empty"),
        (
            lambda r: FFC(16, 16, ratio_in=1, ratio_out=0.5, global_to_local=False, rngs=r),
            "the local output has no input",
        ),
        (
            lambda r: FFC(16, 16, ratio_in=0, local_to_global=False, rngs=r),
            "the global output has no input",
        ),
        (lambda r: FFC(16, 16, padding_mode="same", rngs=r), "padding_mode='same'"),
        (lambda r: FFC(16, 16, rngs=r)(jnp.ones((1, 4, 4, 8))), "8 channels; expected 16"),
        (lambda r: FFC(8, 8, rngs=r), "out_features=4 of the global path; expected 8 or more"),
        (
            lambda r: FourierUnit(6, 8, feature_group_count=4, rngs=r),
            "in_features=6 is not a multiple",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(nnx.Rngs(0))


def test_a_fourier_unit_in_float16_holds_the_sum_of_a_map():
    x = 1000 * (np.random.default_rng(0).standard_normal((1, 40, 40, 4)) + 2)
    halves, whole = (FourierUnit(4, 4, dtype=d, rngs=nnx.Rngs(0)) for d in (np.float16, None))
    y, expected = halves(x.astype(np.float16)), whole(x.astype(np.float32))
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=0.01, atol=0.05)


def test_a_fourier_unit_names_what_is_no_array():
    for x in (None, [[1.0]], np.zeros((1, 4, 4, 4), int)):
        with pytest.raises(TypeError, match=r"x (is|has dtype)"):
            FourierUnit(4, 4, rngs=nnx.Rngs(0))(x)


def test_a_view_fixes_the_implementation_of_the_transforms():
    x = jnp.zeros((1, 8, 8, 4))
    unit = FourierUnit(4, 4, rngs=nnx.Rngs(0))

    def count(platform, implementation=None):
        layer = nnx.view(unit, implementation=implementation) if implementation else unit
        graphdef, state = nnx.split(layer)
        apply = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
        exported = jax.export.export(apply, platforms=[platform])(state, x)
        return exported.mlir_module().count("stablehlo.fft")

    assert count("cpu") == 0 and count("cpu", "fft") == 2
    assert count("tpu") == 2 and count("tpu", "matmul") == 0
    assert count("cpu") == 0
