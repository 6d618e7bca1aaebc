"""Programs lowered for one platform hold nothing that is meant for another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.functional import convolution
from spectral_flax.kernels.platforms import held_on_cpu, held_on_gpu

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def lowered(function, *args, platforms):
    return jax.export.export(jax.jit(function), platforms=platforms)(*args).mlir_module()


@pytest.mark.parametrize("held", [held_on_cpu, held_on_gpu])
def test_what_is_held_is_the_identity_under_every_transformation(held):
    f, g = (lambda x, h=h: jnp.sum(jnp.sin(h(x) ** 2)) for h in (held, lambda x: x))
    for transform in (
        lambda f: f,
        jax.grad,
        jax.hessian,
        lambda f: jax.vmap(jax.grad(f)),
        lambda f: lambda x: jax.jvp(jax.grad(jax.checkpoint(f)), (x,), (x,))[1],
    ):
        np.testing.assert_array_equal(transform(f)(X), transform(g)(X))


@pytest.mark.parametrize(
    ("held", "platforms"), [(held_on_cpu, {"cpu"}), (held_on_gpu, {"cuda", "rocm"})]
)
def test_a_value_is_held_in_programs_of_its_platform_alone(held, platforms):
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(held(x))))
    for platform in ("cpu", "tpu", "cuda", "rocm"):
        text = lowered(gradient, X, platforms=(platform,))
        assert text.count("stablehlo.optimization_barrier") == 2 * (platform in platforms)


@pytest.mark.parametrize("groups", [1, 2])
def test_gpus_hold_what_a_strided_pointwise_convolution_takes_from_a_map(groups):
    # XLA's GPU compiler aborts where such a slice becomes a part of the product.
    x, kernel = np.ones((1, 6, 6, 4), np.float32), np.ones((1, 1, 4 // groups, 2), np.float32)
    for strides, barriers in ((2, 1), (1, 0)):
        f = lambda x, k, s=strides: convolution(x, k, s, 0, feature_group_count=groups)
        text = lowered(f, x, kernel, platforms=("cuda",))
        assert text.count("stablehlo.optimization_barrier") == barriers


OPTIONS = dict(depths=(1, 1, 1), width=8, num_classes=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ffc_resnet26", OPTIONS | dict(ratio=0.5, lfu=False)),
        ("resnet26_srl_fft", OPTIONS | dict(block_options=dict(groups=2))),
        ("resnet26_bat", OPTIONS | dict(input_size=(64, 64))),
    ],
)
def test_a_model_traced_on_the_cpu_is_lowered_for_the_platform_asked_for(name, options):
    model = sf.create_model(name, **options, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)

    def loss(params, rest, x):
        return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(x)).sum()

    params, rest = nnx.split_state(state, nnx.Param, ...)
    args = params, rest, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    traced = jax.jit(jax.grad(loss)).trace(*args)
    platforms = "cpu", "tpu", "cuda"
    programs = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in platforms}
    assert programs["cpu"].count("optimization_barrier") > 0
    transforms = "srl_fft" in name or "ffc" in name
    for platform in ("tpu", "cuda"):
        assert "stablehlo.case" not in programs[platform]
        assert ("stablehlo.fft" in programs[platform]) == transforms
    assert "optimization_barrier" not in programs["tpu"]
    assert "stablehlo.case" not in programs["cpu"]
    assert "stablehlo.fft" not in programs["cpu"]  # maps of these sizes: matrices
