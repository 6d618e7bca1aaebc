"""Attention round a ring, on one device: the attention of functions that see all positions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows_over_devices import on_rows

from spectral_flax.analysis.collectives import collectives
from spectral_flax.functional import concatenation_attention, softmax_attention
from spectral_flax.kernels import ring


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


def flat(x):
    return x.reshape(len(x), -1, x.shape[-1])


def softmax(q, k, v):
    return softmax_attention(*map(flat, (q, k, v)), scale=0.3)


def rectified(q, k, v):
    a, b = (flat(x)[..., i] for x, i in ((q, 0), (k, 1)))
    return concatenation_attention(0.3 * a, 0.3 * b, flat(v))


def test_unknown_weights_are_refused():
    with pytest.raises(ValueError, match="weights='sigmoid'; expected 'softmax' or"):
        ring.ring_attention(*[draw(1, 2, 2, 2)] * 3, weights="sigmoid")


def test_keys_and_values_are_sent_within_a_loop():
    """One after the other: unrolled, XLA for CPUs sends all of them before it uses any."""
    on_a_ring = lambda *maps: on_rows(ring.ring_attention(*map(on_rows, maps)))
    text = jax.jit(on_a_ring).lower(*[draw(2, 8, 4, 3)] * 3).compile().as_text()
    assert len(re.findall(r" collective-permute(?:-start)?\(", text)) == 2
    assert collectives(text)["collective-permute"].count == 2 * 3  # to three of four devices


def test_values_may_have_a_narrower_type():
    with jax.enable_x64(True):
        q, k, v = draw(2, 6, 3, 4), draw(2, 3, 2, 4), draw(2, 3, 2, 5)
        maps = q.astype(jnp.float64), k.astype(jnp.float64), v
        y = jax.jit(lambda *maps: ring.ring_attention(*map(on_rows, maps)))(*maps)
        assert y.dtype == v.dtype
        np.testing.assert_allclose(y, ring.ring_attention(q, k, v), atol=1e-5)


@pytest.mark.parametrize("queries_at_once", [1000, 7])
@pytest.mark.parametrize("expected", [softmax, rectified])
def test_it_is_attention_with_its_gradients(expected, queries_at_once, monkeypatch):
    q, k, v = draw(2, 3, 5, 2), draw(2, 2, 4, 2), draw(2, 2, 4, 6)
    monkeypatch.setattr(ring, "_SCORES", queries_at_once * 8)
    ring._by_devices.cache_clear()  # of programs with other parts
    # <(a, 1), (1, b)> is a + b.
    one = lambda x, i: x.at[..., i].set(1) if expected is rectified else x

    def both(attention):
        function = lambda q, k, v: attention(one(q, 1), one(k, 0), v)
        loss = lambda *args: jnp.sin(function(*args)).sum()
        return function(q, k, v), jax.grad(loss, (0, 1, 2))(q, k, v)

    options = dict(weights=expected.__name__, scale=0.3)
    ours = both(lambda *args: flat(ring.ring_attention(*args, **options)))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(both(expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
