"""Laws of attention over positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_flax.functional import attention


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def operands(n, m, d=3, c=5, batch=2):
    return normal(batch, n, d), normal(batch, m, d, seed=1), normal(batch, m, c, seed=2)


def plain_softmax(q, k, v, scale=1.0):
    scores = scale * np.einsum("bnd,bmd->bnm", q, k)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bnm,bmc->bnc", weights / weights.sum(-1, keepdims=True), v)


def test_softmax_attention_is_its_formula():
    q, k, v = operands(6, 9)
    with jax.enable_x64(True):
        y = attention.softmax_attention(q, k, v, scale=0.7)
        np.testing.assert_allclose(y, plain_softmax(q, k, v, 0.7), atol=1e-12)
        weights = attention.softmax_weights(q, k, scale=0.7)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-12)
        np.testing.assert_allclose(weights @ v, y, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 5, 12, 13])
@pytest.mark.parametrize("kind", ["softmax", "concatenation"])
def test_chunks_change_neither_values_nor_gradients(kind, chunk):
    q, k, v = operands(13, 7)
    cotangent = normal(2, 13, 5, seed=3)

    def attend(q, k, v, chunk):
        if kind == "softmax":
            return attention.softmax_attention(q, k, v, chunk=chunk)
        return attention.concatenation_attention(q[..., 0], k[..., 0], v, chunk=chunk)

    with jax.enable_x64(True):
        results = []
        for size in (chunk, 13):
            y, pull = jax.vjp(lambda *a, size=size: attend(*a, size), q, k, v)
            results.append((y, *pull(jnp.asarray(cotangent))))
        for ours, full in zip(*results, strict=True):
            np.testing.assert_allclose(ours, full, atol=1e-12)


def test_large_maps_are_chunked_without_being_asked(monkeypatch):
    monkeypatch.setattr(attention, "_SCORES", 28)
    q, k, v = operands(13, 7)
    with jax.enable_x64(True):
        text = str(jax.make_jaxpr(attention.softmax_attention)(q, k, v))
        assert "scan" in text and "[2,13,7]" not in text
        y = attention.softmax_attention(q, k, v)
        np.testing.assert_allclose(y, plain_softmax(q, k, v), atol=1e-12)


def test_memory_of_the_chunked_form_grows_as_the_positions(monkeypatch):
    monkeypatch.setattr(attention, "_SCORES", 1 << 14)

    def temporary(n):
        x = jax.ShapeDtypeStruct((1, n, 4), jnp.float32)
        loss = lambda q, k, v: attention.softmax_attention(q, k, v).sum()
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(4096) < 4 * temporary(1024) + (1 << 18)
    assert temporary(4096) < 4096 * 4096 * 4 / 10


def test_scores_beyond_exp_are_no_danger():
    q, k, v = (a.astype(np.float32) for a in operands(4, 5))
    y, pull = jax.vjp(lambda q: attention.softmax_attention(1e4 * q, k, v), q)
    assert np.isfinite(y).all() and np.isfinite(pull(y)[0]).all()


def test_the_fused_kernel_is_the_same_function():
    # jax.nn.dot_product_attention with its portable implementation, in the kernel's place.
    q, k, v = (a.astype(np.float32) for a in operands(6, 9, d=8, c=8))
    fused = jax.nn.dot_product_attention(
        *(a[..., None, :] for a in (q, k, v)), scale=0.3, implementation="xla"
    )
    y = attention.softmax_attention(q, k, v, scale=0.3)
    np.testing.assert_allclose(fused[..., 0, :], y, atol=1e-5)


def test_dot_products_meet_the_values_first():
    q, k, v = operands(6, 9)
    with jax.enable_x64(True):
        y = attention.dot_product_attention(q, k, v)
        np.testing.assert_allclose(y, np.einsum("bnd,bmd->bnm", q, k) @ v / 9, atol=1e-12)
        np.testing.assert_allclose(attention.dot_product_weights(q, k) @ v, y, atol=1e-12)
        text = str(jax.make_jaxpr(attention.dot_product_attention)(q, k, v))
        assert "[2,6,9]" not in text


def test_concatenation_is_its_formula():
    a, b, v = normal(2, 6), normal(2, 9, seed=1), normal(2, 9, 5, seed=2)
    weights = np.maximum(a[:, :, None] + b[:, None, :], 0) / 9
    with jax.enable_x64(True):
        np.testing.assert_allclose(attention.concatenation_attention(a, b, v), weights @ v)
        np.testing.assert_allclose(attention.concatenation_weights(a, b), weights)


@pytest.mark.parametrize("distribute", ["channels", "positions"])
def test_double_attention_is_its_formula(distribute):
    a, b, v = normal(2, 6, 4), normal(2, 6, 3, seed=1), normal(2, 6, 3, seed=2)
    softmax = lambda x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    descriptors = np.einsum("bnk,bnc->bkc", softmax(b, 1), a)
    expected = softmax(v, 2 if distribute == "channels" else 1) @ descriptors
    with jax.enable_x64(True):
        y = attention.double_attention(a, b, v, distribute=distribute)
        np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_compact_attention_is_a_map_of_positions_and_channels(groups):
    t, p, g = (normal(2, 6, 4, seed=i) for i in range(3))
    expected = np.empty_like(t)
    for group in np.split(np.arange(4), groups):
        flat = [a[..., group].reshape(2, -1) for a in (t, p, g)]
        weights = np.einsum("bi,bj->bij", *flat[:2])  # the map that is never formed
        expected[..., group] = np.einsum("bij,bj->bi", weights, flat[2]).reshape(2, 6, -1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(attention.compact_attention(t, p, g, groups=groups), expected)


def test_the_taylor_series_approaches_the_exponential_kernel():
    t, p, g = (normal(2, 6, 4, seed=i) for i in range(3))
    gamma = 0.05
    products = np.einsum("bi,bj->bij", t.reshape(2, -1), p.reshape(2, -1))
    kernel = np.exp(-2 * gamma) * np.exp(2 * gamma * products)
    expected = np.einsum("bij,bj->bi", kernel, g.reshape(2, -1)).reshape(g.shape)
    with jax.enable_x64(True):
        errors = [
            np.abs(attention.compact_attention(t, p, g, gamma=gamma, order=order) - expected).max()
            for order in (1, 3, 12)
        ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-9


@pytest.mark.parametrize("size", [(4, 5), (1, 5), (5, 1), (1, 1)], ids=str)
def test_criss_cross_counts_each_position_of_row_and_column_once(size):
    height, width = size
    q, k, v = (normal(2, *size, 3, seed=i) for i in range(3))
    expected = np.empty_like(v)
    for i in range(height):
        for j in range(width):
            places = {(i, w) for w in range(width)} | {(h, j) for h in range(height)}
            rows, columns = np.array(sorted(places)).T
            args = q[:, None, i, j], k[:, rows, columns], v[:, rows, columns]
            expected[:, i, j] = plain_softmax(*args)[:, 0]

    def with_gradients(q, k, v):
        y, pull = jax.vjp(attention.criss_cross_attention, q, k, v)
        return y, pull(y)

    with jax.enable_x64(True):
        y, gradients = jax.jit(with_gradients)(q, k, v)
        np.testing.assert_allclose(y, expected, atol=1e-12)
        assert all(np.isfinite(g).all() for g in gradients)


def test_nodes_are_sums_over_positions_and_go_back_by_the_same_weights():
    states, projection = normal(2, 6, 4), normal(2, 6, 3, seed=1)
    with jax.enable_x64(True):
        nodes = attention.gather_nodes(states, projection)
        np.testing.assert_allclose(nodes, np.einsum("bls,blk->bsk", states, projection))
        mean = attention.gather_nodes(states, projection, normalize=True)
        np.testing.assert_allclose(6 * mean, nodes)
        back = attention.scatter_nodes(nodes, projection)
        np.testing.assert_allclose(back, np.einsum("bsk,blk->bls", nodes, projection))


def test_bfloat16_comes_out_as_bfloat16():
    q, k, v = (jnp.asarray(a, jnp.bfloat16) for a in operands(6, 6, d=4, c=4))
    grid = lambda a: a.reshape(2, 2, 3, 4)
    results = [
        attention.softmax_attention(q, k, v),
        attention.softmax_attention(q, k, v, chunk=2),
        attention.dot_product_attention(q, k, v),
        attention.concatenation_attention(q[..., 0], k[..., 0], v),
        attention.double_attention(q, k, v),
        attention.criss_cross_attention(grid(q), grid(k), grid(v)),
        attention.scatter_nodes(attention.gather_nodes(q, k), k),
    ]
    assert {r.dtype for r in results} == {jnp.dtype(jnp.bfloat16)}
    assert attention.compact_attention(q, k, v).dtype == jnp.float32
    full = plain_softmax(*(np.asarray(a, np.float64) for a in (q, k, v)))
    np.testing.assert_allclose(np.asarray(results[0], np.float64), full, atol=0.03)


def test_each_function_maps_over_further_axes():
    q, k, v = operands(6, 6, d=4, c=4)
    with jax.enable_x64(True):
        for function in (
            lambda q, k, v: attention.softmax_attention(q, k, v, chunk=2),
            attention.dot_product_attention,
            attention.double_attention,
        ):
            np.testing.assert_allclose(jax.vmap(function)(q, k, v), function(q, k, v), atol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda q: attention.softmax_attention(q, q, q, chunk=0), "chunk=0"),
        (lambda q: attention.softmax_attention(q, q, q, chunk=2.0), "chunk=2.0"),
        (lambda q: attention.softmax_attention(q, q, q, chunk=True), "chunk=True"),
        (lambda q: attention.softmax_attention(q, q, q, implementation="flash"), "'flash'"),
        (lambda q: attention.double_attention(q, q, q, distribute="rows"), "'rows'"),
        (lambda q: attention.compact_attention(q, q, q, groups=3), "groups=3"),
    ],
)
def test_impossible_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((1, 4, 4)))
