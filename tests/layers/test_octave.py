"""Octave convolution: published numbers, laws of its two parts, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import parity_checks
import pytest
from flax import nnx
from parity_checks import PRECISIONS, check_parity

from spectral_flax.functional import octave_down, octave_up
from spectral_flax.layers import OctaveConv, OctaveConvNormAct, conv, fold_batch_norm


class Flat(nnx.Module):
    """The published input, of one map, for a unit of two parts; its parts in one row."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        half = self.layer.conv.in_low
        y = self.layer((x[..., :half], octave_down(x[..., half:])) if half else x)
        return flat([y] if isinstance(y, jax.Array) else y)


def flat(parts):
    return jnp.concatenate([jnp.ravel(part) for part in parts])


def published(expected, key):
    parts = [expected[k] for k in (f"{key}_high", f"{key}_low") if k in expected]
    return np.asarray(flat([np.moveaxis(part, 1, -1) for part in parts]))


def cotangent(about, expected):
    """The published one: a draw of the same seed for each part."""
    seed = about["input"]["seed"] + 1
    parts = [expected[k] for k in ("output_high", "output_low") if k in expected]
    draws = [parity_checks.fill.inputs(list(part.shape), seed) for part in parts]
    return np.asarray(flat([np.moveaxis(draw, 1, -1) for draw in draws]))


UNITS = {
    "octave_conv_first": (16, 32, 3, dict(ratio_in=0, ratio_out=0.5)),
    "octave_conv_both": (32, 32, 3, dict(strides=2)),
    "octave_conv_last": (32, 16, 1, dict(ratio_in=0.5, ratio_out=0)),
}


@pytest.mark.parametrize("x64", PRECISIONS)
@pytest.mark.parametrize("case", UNITS)
def test_units_give_the_published_numbers(case, x64, monkeypatch):
    *sizes, options = UNITS[case]
    load, tables = parity_checks.load_torch, parity_checks.tables_for
    entries = parity_checks.torch_entries
    monkeypatch.setattr(parity_checks, "load_torch", lambda model, state: load(model.layer, state))
    monkeypatch.setattr(parity_checks, "tables_for", lambda model: tables(model.layer))
    monkeypatch.setattr(parity_checks, "torch_entries", lambda m, rules: entries(m.layer, rules))
    monkeypatch.setattr(parity_checks, "_output", published)
    monkeypatch.setattr(parity_checks, "_cotangent", cotangent)
    build = lambda **n: Flat(OctaveConvNormAct(*sizes, **options, rngs=nnx.Rngs(0), **n))
    errors = check_parity(case, build, x64=x64)
    assert {"output", "gradient", "training output"} <= errors.keys()


def drawn(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("strides", [1, 2])
def test_it_is_its_definition(rank, strides):
    frames = (3,) * (rank - 2)
    window, strides = (1,) * (rank - 2) + (3, 3), (1,) * (rank - 2) + (strides,) * 2
    options = dict(rank=rank, strides=strides, rngs=nnx.Rngs(0))
    layer = OctaveConv(8, 12, window, ratio_in=0.25, ratio_out=0.5, **options)
    high, low = drawn(2, *frames, 8, 12, 6), drawn(2, *frames, 4, 6, 2)
    y_high, y_low = layer((high, low))
    if strides[-1] == 2:
        high = octave_down(high)
        wanted = layer.high_to_high(high) + layer.low_to_high(low)
        wanted_low = layer.high_to_low(octave_down(high)) + layer.low_to_low(octave_down(low))
    else:
        wanted = layer.high_to_high(high) + octave_up(layer.low_to_high(low))
        wanted_low = layer.high_to_low(octave_down(high)) + layer.low_to_low(low)
    np.testing.assert_allclose(y_high, wanted, atol=1e-5)
    np.testing.assert_allclose(y_low, wanted_low, atol=1e-5)
    assert y_high.shape[-1] == y_low.shape[-1] == 6


def test_without_low_frequencies_it_is_a_plain_convolution():
    layer = OctaveConv(4, 6, ratio_in=0, ratio_out=0, rngs=nnx.Rngs(0))
    plain = conv(4, 6, 3, rngs=nnx.Rngs(1))
    plain.kernel = layer.high_to_high.kernel
    x = drawn(2, 5, 7, 4)
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-6)


def test_a_constant_map_stays_constant_in_both_parts():
    layer = OctaveConv(4, 4, 1, rngs=nnx.Rngs(0))
    high, low = layer((jnp.ones((1, 4, 4, 2)), jnp.ones((1, 2, 2, 2))))
    np.testing.assert_allclose(high, jnp.broadcast_to(high[:, :1, :1], high.shape), rtol=1e-6)
    np.testing.assert_allclose(low, jnp.broadcast_to(low[:, :1, :1], low.shape), rtol=1e-6)


@pytest.mark.parametrize("ratios", [(0.5, 0.5), (0, 0.5), (0.5, 0)])
def test_its_normalisations_fold(ratios):
    unit = OctaveConvNormAct(8, 8, 3, ratio_in=ratios[0], ratio_out=ratios[1], rngs=nnx.Rngs(0))
    x = (drawn(2, 4, 4, 4), drawn(2, 2, 2, 4)) if ratios[0] else drawn(2, 4, 4, 8)
    unit(x)  # statistics that are not 0 and 1
    unit.eval()
    wanted, folded = unit(x), fold_batch_norm(unit)(x)
    for a, b in zip(jax.tree.leaves(folded), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(ratio_in=1.0), r"ratio_in=1.0 lies outside \[0, 1\)"),
        (dict(ratio_out=-0.1), r"ratio_out=-0.1 lies outside"),
        (dict(ratio_in=0.01), "leaves"),
        (dict(strides=3), "strides=3; expected 1 or 2 in space"),
        (dict(strides=(1, 2)), "expected 1 or 2 in space"),
        (dict(rank=3, strides=2), "and 1 in time"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OctaveConv(8, 8, 3, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.ones((1, 4, 4, 8)), "x is one map; expected a pair"),
        ((jnp.ones((1, 5, 4, 4)), jnp.ones((1, 2, 2, 4))), "even H and W"),
        ((jnp.ones((1, 4, 4, 4)), jnp.ones((1, 4, 4, 4))), r"expected \(1, 2, 2\)"),
        ((jnp.ones((1, 4, 4, 5)), jnp.ones((1, 2, 2, 3))), r"\(5, 3\) channels"),
    ],
)
def test_maps_of_other_parts_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        OctaveConv(8, 8, 3, rngs=nnx.Rngs(0))(x)
