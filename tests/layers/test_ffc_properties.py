"""A fast Fourier convolution is its formula, whatever the options and the size of the map."""

import ffc_reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st

import spectral_flax as sf
from spectral_flax.layers import FFC

FEW = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
RATIOS = st.sampled_from([0, 0.25, 0.5, 1])
QUICK = dict(xla_backend_optimization_level=0, xla_llvm_disable_expensive_passes=True)

OPTIONS = st.fixed_dictionaries(
    dict(
        ratio_in=RATIOS,
        ratio_out=RATIOS,
        kernel_size=st.sampled_from([1, 2, 3, 5, 7]),
        strides=st.integers(1, 3),
        padding=st.sampled_from([None, None, 0, 1, 2, 4]),
        kernel_dilation=st.integers(1, 2),
        feature_group_count=st.sampled_from([1, 1, 2, 4]),
        lfu=st.booleans(),
        use_bias=st.booleans(),
        padding_mode=st.sampled_from(["zeros", "reflect"]),
        implementation=st.sampled_from(["fft", "matmul"]),
        local_to_global=st.sampled_from([True, True, False]),
        global_to_local=st.sampled_from([True, True, False]),
    )
)
SIDES = st.integers(1, 9)
SIZES = st.one_of(
    st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.tuples(st.integers(1, 4), SIDES, SIDES)
)
SELDOM = st.sampled_from([False, False, False, True])


def build(inputs, outputs, **options):
    """Return a layer of random weights and statistics."""
    layer = FFC(inputs, outputs, **options, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(layer, (nnx.Param, nnx.BatchStat))):
        draw = rng.standard_normal(variable.shape)
        draw = np.abs(draw) + 0.5 if path[-1] == "var" else draw
        variable.set_value(jnp.asarray(draw, variable.dtype))
    return layer


def assert_is_the_formula(size, options, training, gradients):
    rank = len(size)
    channels = (16, 32)
    layer = build(*channels, rank=rank, **options)
    x = np.random.default_rng(1).standard_normal((2, *size, channels[0])).astype(np.float32)
    graphdef, params, rest = nnx.split(
        nnx.view(layer, use_running_average=not training, raise_if_not_found=False), nnx.Param, ...
    )

    def apply(params, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    def loss(params, x):
        y = apply(params, x)
        return jnp.square(y).sum(), y

    if gradients:  # they take most of the time
        run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=QUICK)
        slopes, y = run(params, x)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(slopes))
    else:
        y = jax.jit(apply, compiler_options=QUICK)(params, x)
    state = {name: np.float64(a) for name, a in sf.save_torch(layer).items()}
    names = ("ratio_in", "kernel_size", "strides", "padding")
    wanted = ffc_reference.ffc(
        state,
        np.moveaxis(np.float64(x), -1, 1),
        **{name: options[name] for name in names},
        dilation=options["kernel_dilation"],
        groups=options["feature_group_count"],
        reflect=options["padding_mode"] == "reflect",
        training=training,
    )
    y = np.moveaxis(np.asarray(y), -1, 1)
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


def has_inputs(o) -> bool:
    local = (o["ratio_in"] < 1) or o["global_to_local"]
    glob = o["ratio_in"] > 0 or o["local_to_global"]
    return (local or o["ratio_out"] == 1) and (glob or o["ratio_out"] == 0)


def fits(options, size) -> bool:
    extent = options["kernel_dilation"] * (options["kernel_size"] - 1) + 1
    padding = (extent - 1) // 2 if options["padding"] is None else options["padding"]
    return min(size) + 2 * padding >= extent


# As published where it runs: pooling leaves out what the convolution does not reach.
PLAIN = dict(
    ratio_in=0.5,
    ratio_out=0.5,
    strides=2,
    padding=0,
    kernel_dilation=1,
    feature_group_count=1,
    lfu=False,
    use_bias=True,
    padding_mode="zeros",
    implementation="matmul",
    local_to_global=True,
    global_to_local=True,
)


@FEW
@example(options=PLAIN | dict(kernel_size=2), size=(5, 7), training=False, slope=False)
@example(options=PLAIN | dict(kernel_size=3), size=(6, 9), training=False, slope=False)
@given(options=OPTIONS, size=SIZES, training=st.booleans(), slope=SELDOM)
def test_any_layer_is_the_formula(options, size, training, slope):
    assume(has_inputs(options) and fits(options, size))
    assert_is_the_formula(size, options, training, slope)


@pytest.mark.parametrize("ratio", [0, 0.5, 1])
def test_a_map_smaller_than_the_kernel_is_named(ratio):
    layer = FFC(16, 32, 3, ratio_in=ratio, ratio_out=ratio, padding=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"shape \(1, 2, 4, 16\).* smaller than the kernel"):
        layer(jnp.ones((1, 2, 4, 16)))


@pytest.mark.parametrize("option", ["strides", "kernel_size", "kernel_dilation"])
def test_sizes_below_one_are_named(option):
    options = dict(kernel_size=3) | {option: 0}
    with pytest.raises(ValueError, match=rf"{option}=\(0, 0\); expected positive integers"):
        FFC(16, 32, ratio_in=1, ratio_out=1, **options, rngs=nnx.Rngs(0))
