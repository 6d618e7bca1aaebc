"""Rewritten functions: the same values, with operations replaced and constants computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from spectral_flax.exporting.onnx import RULES
from spectral_flax.exporting.rewriting import rewritten

RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((2, 8, 5), np.float32)
CLIP = RNG.standard_normal((2, 6, 9, 8, 4), np.float32)


def operations(function, *args) -> list[str]:
    return [operation.primitive.name for operation in jax.make_jaxpr(function)(*args).eqns]


def with_own_gradient(function):
    own = jax.custom_jvp(function)
    own.defjvp(lambda primals, tangents: (function(*primals), tangents[0]))
    return own


CALLS = [jax.jit, jax.checkpoint, with_own_gradient, lambda f: f]


@pytest.mark.parametrize("call", CALLS)
def test_an_operation_is_replaced_wherever_it_is_called(call):
    traced = jax.make_jaxpr(lambda x: 2 * call(jnp.sin)(x))(1.0)
    (y,) = rewritten(traced, {"sin": lambda x, **_: jnp.cos(x)})(1.0)
    np.testing.assert_allclose(y, 2 * np.cos(1.0), rtol=1e-6)


def test_what_follows_from_constants_is_computed_at_once():
    weights = jnp.arange(1.0, 5.0)
    traced = jax.make_jaxpr(lambda x: x * jnp.sqrt(weights + 1))(weights)
    assert operations(rewritten(traced, {}), weights) == ["mul"]


def test_a_constant_that_would_be_large_stays_a_computation():
    traced = jax.make_jaxpr(lambda x: x + jnp.ones((100, 100)))(0.0)
    assert "broadcast_in_dim" in operations(rewritten(traced, {}), 0.0)


def convolved(window, strides, padding, dilation=(1, 1, 1), groups=1):
    kernel = RNG.standard_normal((*window, 4 // groups, 6), np.float32)
    margins = [(p, p) for p in padding]
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return lambda x: lax.conv_general_dilated(
        x,
        kernel,
        strides,
        margins,
        rhs_dilation=dilation,
        dimension_numbers=numbers,
        feature_group_count=groups,
    )


@pytest.mark.parametrize(
    "function",
    [
        convolved((1, 3, 3), (1, 1, 1), (0, 1, 1)),
        convolved((3, 3, 1), (2, 1, 2), (1, 0, 2)),
        convolved((2, 1, 3), (1, 2, 1), (1, 1, 1), dilation=(2, 1, 2), groups=2),
        lambda x: nnx.max_pool(x, (1, 3, 3), (1, 2, 2), [(0, 0), (1, 1), (1, 1)]),
        lambda x: nnx.max_pool(x, (3, 2, 1), (2, 2, 1), [(1, 1), (0, 1), (0, 0)]),
        lambda x: nnx.max_pool(x[:, 0], (3, 3), (2, 2), [(1, 1), (1, 1)]),
        lambda x: jnp.einsum("nthwc,rwk->nkrthc", x, TABLE),
        lambda x: jnp.einsum("rwk,nthwc->rnckht", TABLE, x),
        lambda x: jnp.einsum("nthwc,rwc->nrth", x, TABLE[:, :, :4]),
        lambda x: jnp.pad(nnx.relu(x), ((0, 0), (1, 2), (0, 0), (0, 0), (0, 0))),
    ],
)
def test_the_rules_for_onnx_change_no_number(function):
    (y,) = jax.jit(rewritten(jax.make_jaxpr(function)(CLIP), RULES))(CLIP)
    np.testing.assert_allclose(y, jax.jit(function)(CLIP), rtol=1e-5, atol=1e-5)


def test_no_convolution_over_three_axes_is_left():
    traced = jax.make_jaxpr(convolved((3, 3, 3), (1, 1, 1), (1, 1, 1)))(CLIP)
    program = jax.make_jaxpr(rewritten(traced, RULES))(CLIP)
    ranks = [e.invars[0].aval.ndim for e in program.eqns if "conv_general" in e.primitive.name]
    assert ranks == [4, 4, 4]
