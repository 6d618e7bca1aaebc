import contextlib
import dataclasses
from functools import partial

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from spectral_flax.functional import batch_parallel, convolution, irfft2, rfft2


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


@pytest.mark.parametrize("implementation", ["fft", "matmul"])
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
def test_gradients_inside_shard_map_are_those_outside(mesh, check_vma):
    def mean_loss(x, kernel):
        part = jax.shard_map(
            lambda x, k: jax.lax.psum(loss(x, k), "data"),
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
