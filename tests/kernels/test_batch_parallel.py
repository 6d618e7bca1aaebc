import contextlib
import dataclasses
import re
from functools import partial

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from spectral_flax.functional import batch_parallel, convolution, irfft2, rfft2
from spectral_flax.kernels import batch_parallel as sharding


def grouped(x, kernel):
    options = dict(padding=((1, 1), (1, 1)), feature_group_count=4)
    return convolution(x, kernel, (2, 2), **options)


def unit(x, kernel, implementation="fft"):
    s = jax.nn.relu(rfft2(x, implementation=implementation))
    return grouped(irfft2(s, x.shape[-2], implementation=implementation), kernel)


def loss(x, kernel, **options):
    return jnp.square(unit(x, kernel, **options)).sum()


X = np.random.default_rng(0).standard_normal((16, 6, 7, 8)).astype(np.float32)
KERNEL = np.random.default_rng(1).standard_normal((3, 3, 2, 16)).astype(np.float32)


@pytest.mark.parametrize("implementation", ["fft", "matmul", "auto"])
@pytest.mark.parametrize("in_context", [False, True], ids=["no context", "set_mesh"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_no_gather_forward_or_backward(kind, in_context, implementation):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh) if in_context else contextlib.nullcontext():
        x, kernel = collectives.split(mesh, X), collectives.copied(mesh, KERNEL)
        forward = partial(unit, implementation=implementation)
        gradient = jax.grad(partial(loss, implementation=implementation), (0, 1))
        assert collectives.count(forward, x, kernel) == 0
        assert collectives.count(gradient, x, kernel) == 0
        assert collectives.count(gradient, x, kernel, kind="all-reduce") >= 1  # the kernel's
        for ours, alone in zip(
            jax.jit(gradient)(x, kernel), jax.jit(gradient)(X, KERNEL), strict=True
        ):
            np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-2)


def test_a_batch_over_two_mesh_axes_is_not_gathered():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    x, kernel = collectives.split(mesh, X), collectives.copied(mesh, KERNEL)
    assert collectives.count(jax.grad(loss, (0, 1)), x, kernel) == 0


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("implementation", ["fft", "auto"])
def test_gradients_inside_shard_map_are_those_outside(mesh, check_vma, implementation):
    def mean_loss(x, kernel):
        part = jax.shard_map(
            lambda x, k: jax.lax.psum(loss(x, k, implementation=implementation), "data"),
            mesh=mesh,
            in_specs=(P("data"), P()),
            out_specs=P(),
            check_vma=check_vma,
        )
        return part(x, kernel)

    for ours, alone in zip(
        jax.jit(jax.grad(mean_loss, (0, 1)))(X, KERNEL),
        jax.grad(loss, (0, 1))(X, KERNEL),
        strict=True,
    ):
        np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-2)


@dataclasses.dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, x, w):
        return self.factor * jnp.einsum("nij,jk->nik", x, w)


def test_every_transformation_equals_the_plain_function():
    plain = Scaled(2.0)
    ours = lambda x, w: batch_parallel(plain, x, w, batch=(0, None))
    x, w = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate([(4, 3, 5), (5, 2)]))
    f, g = (lambda x, w, f=f: jnp.sin(f(x, w)).sum() for f in (plain, ours))
    check = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    check(ours(x, w), plain(x, w))
    for transform in (
        lambda f: jax.grad(f, (0, 1)),
        lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
        lambda f: lambda x, w: jax.jvp(jax.grad(f), (x, w), (x, w)),
        lambda f: jax.hessian(f, 1),
        lambda f: lambda x, w: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(x, jnp.stack([w, 2 * w])),
        lambda f: lambda x, w: jax.vmap(jax.grad(f, (0, 1)), (1, None))(x[:, None], w),
    ):
        jax.tree.map(check, transform(g)(x, w), transform(f)(x, w))


def test_a_program_with_it_exports_for_every_platform():
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (X, KERNEL)]
    exported = jax.export.export(jax.jit(unit), platforms=("cpu", "cuda", "tpu"))(*shapes)
    assert "custom_call @CustomSPMDPartitioning" not in exported.mlir_module()


def test_a_batch_axis_for_every_argument_is_asked_for():
    with pytest.raises(ValueError, match="batch has 1 entries for 2 arguments"):
        batch_parallel(Scaled(1.0), X, KERNEL)


def test_a_batch_that_the_devices_do_not_divide_is_computed_where_it_is(mesh):
    x = jax.device_put(X[:3], NamedSharding(mesh, P()))
    np.testing.assert_allclose(jax.jit(unit)(x, KERNEL), unit(X[:3], KERNEL), rtol=1e-4, atol=1e-4)


def precisions(lowered) -> set[str]:
    """The precisions of the products in a lowered program."""
    return set(re.findall(r"\b(HIGH|HIGHEST)\b", lowered.as_text()))


def product(x, w):
    return jnp.einsum("nij,jk->nik", x, w)


CALLS = {
    "grouped convolution": (grouped, X, KERNEL),
    "grouped pointwise convolution": (
        partial(convolution, window_strides=(1, 1), padding="VALID", feature_group_count=4),
        X,
        KERNEL[:1, :1],
    ),
    "convolution": (
        partial(convolution, window_strides=(1, 1), padding=((1, 1), (1, 1))),
        X,
        np.repeat(KERNEL, 4, 2),
    ),
    "a product of one's own": (
        partial(batch_parallel, product, batch=(0, None)),
        X[0],
        KERNEL[0, 0].T[:8],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_computes_with_the_precision_in_force(name):
    function, *args = CALLS[name]
    loss = lambda x, k: jnp.square(function(x, k)).sum()
    for f in (function, jax.grad(loss, (0, 1))):
        for precision, expected in (None, set()), ("highest", {"HIGHEST"}), (None, set()):
            with jax.default_matmul_precision(precision):
                assert precisions(jax.jit(partial(f)).lower(*args)) == expected


@pytest.mark.parametrize("name", CALLS)
def test_a_gradient_and_a_program_keep_the_precision_of_the_call(name):
    function, *args = CALLS[name]
    with jax.default_matmul_precision("highest"):
        y, pullback = jax.vjp(function, *args)
        traced = jax.jit(partial(function)).trace(*args)
    assert precisions(jax.jit(pullback).lower(y)) == precisions(traced.lower()) == {"HIGHEST"}


SEEN = []


def watched(x):
    SEEN.append({name: getattr(jax.config, f"jax_{name}") for name in sharding._SETTINGS})
    return 2 * x


@pytest.mark.parametrize(
    "setting",
    [
        partial(jax.default_matmul_precision, "high"),
        partial(jax.numpy_dtype_promotion, "strict"),
        partial(jax.numpy_rank_promotion, "allow"),
        partial(jax.softmax_custom_jvp, False),
        partial(jax.default_prng_impl, "rbg"),
    ],
)
def test_each_device_computes_under_the_settings_of_the_call(mesh, setting):
    x = collectives.split(mesh, X)
    with setting():
        wanted = {name: getattr(jax.config, f"jax_{name}") for name in sharding._SETTINGS}
        lowered = jax.jit(lambda x: batch_parallel(watched, x)).lower(x)
    SEEN.clear()
    lowered.compile()
    assert SEEN and all(seen == wanted for seen in SEEN)
