"""Comparison of a function of maps on one device and with the rows of the maps over several."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from spectral_flax.analysis.collectives import Collective, collectives


@functools.cache
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def on_rows(x):
    """Split the batch over the axis ``data`` and the rows over ``space``, evenly or not."""
    spec = P("data", *[None] * (x.ndim - 4), "space")
    return lax.with_sharding_constraint(x, NamedSharding(mesh(), spec))


def filled(x):
    """Add rows of zeros up to a multiple of the devices, which a program's result must have."""
    rows = x.ndim - 3
    return jnp.pad(x, [(0, -x.shape[rows] % 4 if axis == rows else 0) for axis in range(x.ndim)])


def check_equal_to_one_device(function, *args, strips=False) -> dict[str, Collective]:
    """Compare value and gradients in float64; return the collectives of the program of both.

    No array is gathered, or with ``strips`` none as large as a device's part of the map.
    """

    def loss(x, *args):
        arrays = jax.tree.leaves(function(x, *args))
        return sum(jnp.square(jnp.sin(a + 1)).sum() for a in arrays)

    gradient = jax.value_and_grad(loss, tuple(range(len(args))))

    def split(x, *args):
        value, (of_x, *others) = gradient(on_rows(x), *args)
        return value, (on_rows(filled(of_x)), *others)

    with jax.enable_x64(True):
        args = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), args)
        program = jax.jit(split).lower(*args).compile()
        value, grads = program(*args)
        expected, (of_x, *others) = jax.jit(gradient)(*args)
        alone = (filled(of_x), *others)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        largest = max(float(np.abs(a).max()) for a in jax.tree.leaves(alone))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-10 * largest),
            grads,
            alone,
        )
    text = program.as_text()
    each = (collectives(line).get("all-gather") for line in text.splitlines())
    gathered = max((one.bytes for one in each if one), default=0)
    assert gathered == 0 or (strips and gathered < args[0].nbytes / mesh().size)
    return collectives(text)


def check_layer(layer: nnx.Module, *shape: int, **options) -> dict[str, Collective]:
    """Compare a layer in training: result, statistics and gradients of map and parameters."""
    layer.train()
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    # What starts at zero would hide all that comes before it.
    params = jax.tree.map(lambda a: jnp.where(jnp.any(a != 0), a, 0.3), params)

    def as_wide(a):
        return a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a

    def function(x, params):
        merged = nnx.merge(graph, params, jax.tree.map(as_wide, rest), copy=True)
        return merged(x), nnx.state(merged, nnx.BatchStat)

    return check_equal_to_one_device(function, draw(*shape), params, **options)
