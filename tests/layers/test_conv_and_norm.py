import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spectral_flax.layers import BatchNorm, ConvNormAct, SqueezeExcite, conv, linear


def test_running_statistics_are_the_mean_and_the_unbiased_variance():
    x = 3 + 2 * np.random.default_rng(0).standard_normal((4, 5, 6, 3)).astype(np.float32)
    norm = BatchNorm(3, momentum=0.75)
    y = norm(jnp.asarray(x))
    flat = x.reshape(-1, 3)
    np.testing.assert_allclose(norm.mean[...], 0.25 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.75 + 0.25 * flat.var(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5)


def test_statistics_of_large_means_are_exact():
    x = 1000 + np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    norm = BatchNorm(8, momentum=0)
    norm(jnp.asarray(x))
    np.testing.assert_allclose(norm.var[...], x.astype(np.float64).var(0, ddof=1), rtol=1e-4)


def normalised(x, scale, bias, epsilon=1e-5):
    """The formula, with statistics of the batch."""
    mean = lambda a: a.mean((0, 1, 2), keepdims=True)
    centred = x - mean(x)
    scale, bias = (jnp.broadcast_to(a, x.shape) for a in (scale, bias))
    return centred / jnp.sqrt(mean(centred**2) + epsilon) * scale + bias


def test_derivatives_are_those_of_the_formula():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        layer = BatchNorm(3, param_dtype=jnp.float64)
        x, weights = (jnp.asarray(rng.standard_normal((4, 5, 2, 3))) for _ in range(2))
        affine = tuple(jnp.asarray(rng.standard_normal(3)) for _ in range(2))

        def ours(x, scale, bias):
            graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
            params = nnx.State({"scale": nnx.Param(scale), "bias": nnx.Param(bias)})
            return nnx.merge(graphdef, params, rest, copy=True)(x)

        losses = [
            lambda *args, f=f: jnp.sum(jnp.sin(f(*args)) * weights) for f in (ours, normalised)
        ]
        tangents = tuple(jnp.asarray(rng.standard_normal(a.shape)) for a in (x, *affine))
        found, expected = (
            (
                jax.grad(loss, (0, 1, 2))(x, *affine),
                jax.jvp(loss, (x, *affine), tangents),
                jax.jvp(jax.grad(loss, (0, 1, 2)), (x, *affine), tangents),
            )
            for loss in losses
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, expected)


def test_one_position_has_finite_statistics():
    norm = BatchNorm(2)
    assert jnp.isfinite(norm(jnp.ones((1, 1, 1, 2)))).all()
    assert jnp.isfinite(norm.var[...]).all()


def test_statistics_over_devices_are_those_of_the_whole_batch(mesh):
    x = np.random.default_rng(0).standard_normal((16, 3, 4)).astype(np.float32)
    graphdef, state = nnx.split(BatchNorm(4))

    def apply(state, x, axis_name):
        norm = nnx.view(nnx.merge(graphdef, state, copy=True), axis_name=axis_name)
        return norm(x), nnx.state(norm)

    spec = jax.sharding.PartitionSpec
    spread = jax.shard_map(
        lambda state, x: apply(state, x, "data"),
        mesh=mesh,
        in_specs=(spec(), spec("data")),
        out_specs=(spec("data"), spec()),
    )
    for ours, whole in zip(
        jax.tree.leaves(jax.jit(spread)(state, x)),
        jax.tree.leaves(apply(state, x, None)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, whole, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_layers_keep_the_computation_dtype(dtype):
    layer = ConvNormAct(4, 8, 3, dtype=dtype, rngs=nnx.Rngs(0))
    assert layer(jnp.ones((1, 5, 5, 4))).dtype == dtype
    assert layer.conv.kernel.dtype == layer.norm.mean.dtype == jnp.float32
    gate = SqueezeExcite(16, dtype=dtype, rngs=nnx.Rngs(0))
    assert gate(jnp.ones((1, 5, 5, 16), dtype)).dtype == dtype


def test_squeeze_excite_scales_each_channel_alike_everywhere():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 32))
    ratio = SqueezeExcite(32, rngs=nnx.Rngs(0))(x) / x
    np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[:, :1, :1], x.shape), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: conv(6, 8, 3, feature_group_count=4, rngs=r),
            "in_features=6 is not a positive multiple",
        ),
        (lambda r: conv(8, 6, 3, feature_group_count=4, rngs=r), "out_features=6 is not"),
        (lambda r: conv(8, 0, 3, rngs=r), "out_features=0"),
        (lambda r: conv(8, 8, (3, 3, 3), rngs=r), r"kernel_size=\(3, 3, 3\); expected"),
        (lambda r: conv(8, 8, 3, strides=-1, rngs=r), "strides=-1"),
        (lambda r: conv(8, 8, 1.5, rngs=r), "kernel_size=1.5"),
        (lambda r: SqueezeExcite(8, rngs=r), "features=8 is below reduction=16"),
        (lambda r: BatchNorm(4)(jnp.ones((1, 3))), "3 channels; expected 4"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(nnx.Rngs(0))


def test_a_linear_layer_is_a_product():
    layer = linear(3, 2, rngs=nnx.Rngs(0))
    x = jnp.ones((4, 3))
    np.testing.assert_allclose(layer(x), x @ layer.kernel[...], rtol=1e-6)
