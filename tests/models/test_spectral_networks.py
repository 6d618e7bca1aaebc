"""GFNet and Fourier neural operators: published numbers, sizes, what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_checks import PRECISIONS, check_parity

import spectral_flax as sf


@pytest.mark.parametrize("x64", PRECISIONS)
def test_gfnet_gives_the_published_numbers(x64):
    build = functools.partial(sf.abstract_model, "gfnet_tiny", input_size=(64, 64))
    check_parity("gfnet_ti", build, x64=x64)


@pytest.mark.parametrize("x64", PRECISIONS)
def test_a_fourier_neural_operator_gives_the_published_numbers(x64, monkeypatch):
    monkeypatch.setattr("parity_checks._channels_last", np.asarray)
    build = functools.partial(sf.abstract_model, "fno2d", modes=(16, 8), width=16)
    check_parity("fno_original_fno2d", build, x64=x64)


def test_the_parameters_are_those_of_the_paper():
    count = lambda name: sum(a.size for a in jax.tree.leaves(sf.abstract_model(name)) if a.size > 2)
    assert count("gfnet_tiny") / 1e6 == pytest.approx(7.5, abs=0.1)  # 7 M in the paper's table
    assert count("gfnet_small") / 1e6 == pytest.approx(25.0, abs=0.5)


def test_an_operator_takes_any_grid_and_a_filter_network_one():
    model = sf.create_model("fno2d", modes=(4, 3), width=4, depth=2, hidden=8, padding=2)
    shape = lambda *size: jax.eval_shape(lambda x: model(x), jnp.ones(size)).shape
    for size in ((8, 8), (9, 13)):
        assert shape(2, *size, 1) == (2, *size, 1)
    with pytest.raises(ValueError, match=r"modes=\(24, 12\); a map of \(13, 13\)"):
        sf.create_model("fno2d", width=4)(jnp.ones((1, 4, 4, 1)))
    small = dict(input_size=(32, 48), width=8, depth=1, num_classes=3)
    model = sf.create_model("gfnet_tiny", **small)
    assert shape(2, 32, 48, 3) == (2, 3)
    maps = jax.eval_shape(lambda x: model.features(x), jnp.ones((1, 32, 48, 3)))
    assert maps["norm"].shape == (1, 2, 3, 8)
    with pytest.raises(ValueError, match=r"expected images of \(32, 48\)"):
        model(jnp.ones((1, 48, 32, 3)))
    with pytest.raises(ValueError, match="multiples of patch=16"):
        sf.create_model("gfnet_tiny", input_size=(30, 32))
