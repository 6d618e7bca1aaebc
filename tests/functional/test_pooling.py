"""Adaptive pooling against its definition."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spectral_flax.functional import keypoints, pooling

# One compilation for each test: eagerly every operation would have its own.
static = dict(static_argnames=("sizes", "axes"))
adaptive_average_pool = jax.jit(pooling.adaptive_average_pool, **static)
adaptive_max_pool = jax.jit(pooling.adaptive_max_pool, **static)

KINDS = [(adaptive_average_pool, np.mean), (adaptive_max_pool, np.max)]
BINS = [(6, 1), (6, 2), (6, 6), (7, 3), (5, 4), (13, 7), (16, 7), (2, 5), (1, 1)]


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("pool, reduce", KINDS)
@pytest.mark.parametrize("n, size", BINS)
def test_each_bin_runs_from_the_floor_to_the_ceiling(n, size, pool, reduce):
    x = normal(2, n, 3)
    bins = [
        x[:, int(np.floor(i * n / size)) : int(np.ceil((i + 1) * n / size))] for i in range(size)
    ]
    expected = np.stack([reduce(np.asarray(b), 1) for b in bins], 1)
    np.testing.assert_allclose(pool(x, (size,), axes=(1,)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_axes_are_pooled_independently(pool, reduce):
    x = normal(2, 5, 7, 6, 3)
    one = x
    for size, axis in ((2, 1), (3, 2), (4, 3)):
        one = pool(one, (size,), axes=(axis,))
    np.testing.assert_allclose(pool(x, (2, 3, 4), axes=(1, 2, 3)), one, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pool(x, (3, 4)), pool(x, (3, 4), axes=(2, 3)), rtol=1e-6)
    np.testing.assert_allclose(pool(x, (1, 1))[:, :, 0, 0], reduce(x, (2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_as_many_bins_as_positions_is_the_identity(pool, reduce):
    x = normal(2, 5, 4, 3)
    np.testing.assert_array_equal(pool(x, (5, 4)), x)


def test_a_constant_stays_constant():
    for pool, _ in KINDS:
        np.testing.assert_allclose(pool(jnp.full((1, 11, 13, 2), 3.0), (7, 5)), 3, rtol=1e-6)


@pytest.mark.parametrize("pool, reduce", KINDS)
@pytest.mark.parametrize("n", [12, 13])
def test_bfloat16_stays_bfloat16(n, pool, reduce):
    assert pool(normal(1, n, n, 2).astype(jnp.bfloat16), (6, 6)).dtype == jnp.bfloat16


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_pooling_compiles_without_a_gather(pool, reduce):
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x, (7, 3)))))
    assert " gather(" not in jax.jit(grad).lower(normal(2, 13, 8, 3)).compile().as_text()


@pytest.mark.parametrize("pool, reduce", KINDS)
@pytest.mark.parametrize("sizes", [(0, 1), (-2, 1), (1.5, 1)])
def test_sizes_that_are_not_positive_integers_are_errors(sizes, pool, reduce):
    with pytest.raises(ValueError, match=r"sizes is .*; expected positive integers"):
        pool(normal(1, 4, 4, 2), sizes)


@pytest.mark.parametrize("pool, reduce", KINDS)
def test_one_size_for_each_axis(pool, reduce):
    with pytest.raises(ValueError, match="differ in number"):
        pool(normal(1, 4, 4, 2), (2,))


def test_axes_that_do_not_exist_are_errors():
    with pytest.raises(ValueError, match=r"axes \(4,\) are not all axes of x, which has 4"):
        adaptive_max_pool(normal(1, 4, 4, 2), (2,), axes=(4,))


@pytest.mark.parametrize("method, reduce", [("average", np.mean), ("max", np.max)])
@pytest.mark.parametrize("frames, window", [(1, 3), (2, 3), (5, 3), (5, 5), (4, 1)])
def test_frames_are_pooled_with_the_neighbours_that_exist(frames, window, method, reduce):
    x = normal(2, frames, 3, 2)
    half = window // 2
    near = [np.asarray(x)[:, max(t - half, 0) : t + half + 1] for t in range(frames)]
    expected = np.stack([reduce(n, 1) for n in near], 1)
    np.testing.assert_allclose(pooling.pool_frames(x, window, method), expected, atol=1e-6)


@pytest.mark.parametrize("window, method", [(2, "max"), (0, "max"), (3, "sum")])
def test_windows_are_odd_and_methods_known(window, method):
    with pytest.raises(ValueError, match=r"window=|method="):
        pooling.pool_frames(normal(1, 4, 2), window, method)


def first_largest(bins, x):
    """The gradient by definition: for each bin a one at its first largest position, by row."""
    gradient = np.zeros(x.shape)
    for rows, columns in bins:
        for n, c in np.ndindex(x.shape[0], x.shape[-1]):
            part = x[n, rows, columns, c]
            i, j = np.unravel_index(np.argmax(part), part.shape)
            gradient[n, rows.start + i, columns.start + j, c] += 1
    return gradient


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("sizes", [(2, 1), (1, 3), (3, 2), (4, 5)])
def test_of_equal_positions_the_first_gets_the_gradient(sizes, dtype):
    x = np.random.default_rng(0).integers(0, 3, (2, 6, 9, 3)).astype(dtype)
    bins = [
        [slice(i * n // k, -(-(i + 1) * n // k)) for i in range(k)]
        for n, k in zip(x.shape[1:3], sizes, strict=True)
    ]
    expected = first_largest([(r, c) for r in bins[0] for c in bins[1]], x.astype(np.float32))
    gradient = jax.grad(lambda x: adaptive_max_pool(x, sizes).astype(np.float32).sum())(x)
    np.testing.assert_array_equal(gradient.astype(np.float32), expected)


def test_of_equal_frames_the_first_gets_the_gradient():
    x = jnp.asarray([[1.0, 1.0, 0.0, 0.0, -jnp.inf, -jnp.inf, -jnp.inf]]).T[None]
    gradient = jax.grad(lambda x: pooling.pool_frames(x, 3, "max").sum())(x)
    np.testing.assert_array_equal(gradient[0, :, 0], [2, 1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize(
    "maximum",
    [
        lambda x: pooling.adaptive_max_pool(x, (3, 2)),
        lambda x: pooling.adaptive_max_pool(x, (2, 5)),
        lambda x: pooling.pool_frames(x, 3, "max"),
        lambda x: keypoints.decode_heatmaps(x)[1],
    ],
)
def test_no_gradient_depends_on_what_equals_a_maximum(maximum):
    """A compiler may compute x twice, with other rounding: then nothing equals its maximum."""
    gradient = str(jax.make_jaxpr(jax.grad(lambda x: maximum(x).sum()))(normal(2, 6, 7, 3)))
    assert not re.search(r"\b(reduce_max|max)\b", gradient)


def test_a_nan_is_the_largest():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 2], x[0, 3, 3] = np.nan, 5
    y = pooling.adaptive_max_pool(x, (2, 2))
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, np.nan], [0, 5]])


PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from spectral_flax.layers.blocks import block
for name, rank, size, options in (("bat", 2, (28, 28), dict(groups=2)), ("nl", 3, (2, 6, 6), {})):
    module = block(name, 12, rank=rank, rngs=nnx.Rngs(0), **options)
    graphdef, state = nnx.split(module)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, *size, 12)), jnp.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        loss = lambda x: jnp.square(nnx.merge(graphdef, state, copy=True)(x) - 1).sum()
        gradient = jax.jit(jax.grad(loss))(x.astype(dtype))
        assert jnp.isfinite(gradient).all(), (name, dtype, jnp.isnan(gradient).sum())
"""


def test_gradients_of_maxima_are_finite_in_a_program_that_is_not_optimised():
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # level 0 of XLA's
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=600)


@pytest.mark.parametrize("shape", [(2, 0, 4, 3), (2, 4, 0, 3)])
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: pooling.adaptive_average_pool(x, (1, 1)),
        lambda x: pooling.adaptive_max_pool(x, (1, 1)),
        lambda x: pooling.average_pool(x, (2, 2)),
    ],
)
def test_an_empty_map_has_no_pooled_one(pool, shape):
    with pytest.raises(ValueError, match=r"x has shape .*; expected no empty axis"):
        pool(jnp.zeros(shape))


@pytest.mark.parametrize(
    "pool, shape",
    [
        (lambda x: pooling.adaptive_average_pool(x, (2, 3)), (0, 2, 3, 3)),
        (lambda x: pooling.adaptive_max_pool(x, (2, 3)), (0, 2, 3, 3)),
        (lambda x: pooling.average_pool(x, (2, 2)), (0, 3, 2, 3)),
        (lambda x: pooling.pool_frames(x, 3), (0, 5, 4, 3)),
        (lambda x: pooling.pool_frames(x, 3, "max"), (0, 5, 4, 3)),
    ],
)
def test_an_empty_batch_is_pooled_to_an_empty_one(pool, shape):
    assert pool(jnp.zeros((0, 5, 4, 3))).shape == shape


@pytest.mark.parametrize("x", [None, [[1.0]], 3, np.zeros((1, 4, 4, 1), int)], ids=str)
def test_only_floating_arrays_are_pooled(x):
    for pool in (pooling.adaptive_average_pool, pooling.adaptive_max_pool, pooling.average_pool):
        with pytest.raises(TypeError, match=r"x (is|has dtype)"):
            pool(x, (1, 1))
    with pytest.raises(TypeError, match=r"x (is|has dtype)"):
        pooling.pool_frames(x, 1)


WINDOWS = [
    ((4, 9, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((4, 7, 9), (3, 2), (1, 3), "SAME"),
    ((4, 5, 6), (2, 2), (2, 2), "VALID"),
    ((1, 5, 7, 6), (3, 3, 3), (2, 2, 1), ((0, 1), (1, 0), (1, 1))),
]


@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_windows_give_their_maximum_and_its_gradient_to_the_first(case):
    (count, *sizes), *options = case
    # Few values, so that windows have several positions that are largest.
    x = jnp.floor(2 * normal(count, *sizes, 3))

    def both(pool):
        y, pullback = jax.vjp(lambda x: pool(x, *options), x)
        return (
            y,
            *pullback(normal(*y.shape, seed=1)),
            jax.jvp(lambda x: pool(x, *options), (x,), (x,)),
        )

    ours, expected = jax.jit(lambda: (both(pooling.max_pool), both(nnx.max_pool)))()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(("platform", "count"), [("cpu", 0), ("cuda", 1)])
def test_the_gradient_of_windows_has_a_form_of_its_own_on_the_cpu(platform, count):
    gradient = jax.jit(jax.grad(lambda x: pooling.max_pool(x, (3, 3), (2, 2)).sum()))
    text = gradient.trace(normal(1, 8, 8, 2)).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.select_and_scatter") == count


def test_windows_have_a_length_for_each_axis():
    with pytest.raises(ValueError, match=r"strides=\(2,\) for x of shape"):
        pooling.max_pool(normal(1, 4, 4, 2), (2, 2), (2,))
    with pytest.raises(ValueError, match="window is"):
        pooling.max_pool(normal(1, 4, 4, 2), (2, 0), (2, 2))


def test_sums_of_large_halves_do_not_overflow():
    x = jnp.full((1, 3, 1), 6e4, jnp.float16)
    np.testing.assert_array_equal(pooling.pool_frames(x, 3), x)
    np.testing.assert_array_equal(pooling.average_pool(x, (3,)), x[:, :1])
