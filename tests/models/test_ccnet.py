"""CCNet: published numbers of its head and of the whole, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import parity_checks
import pytest
from applied import apply
from flax import nnx
from parity_checks import check_parity

import spectral_flax as sf
from spectral_flax.models.ccnet import CrissCrossHead

SMALL = dict(width=8, depths=(1, 1, 1, 1), head_features=8, num_classes=3)


class Logits(nnx.Module):
    """The published output: logits of an eighth of the size."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model.features(x)["logits"]


@pytest.mark.parametrize("x64", [False, True])
def test_the_head_gives_the_published_numbers(x64):
    build = lambda **numerics: CrissCrossHead(64, 19, rngs=nnx.Rngs(0), **numerics)
    check_parity("ccnet_rcca", build, x64=x64)


@pytest.mark.full
def test_the_network_gives_the_published_numbers(monkeypatch):
    load = parity_checks.load_torch
    monkeypatch.setattr(parity_checks, "load_torch", lambda model, state: load(model.model, state))
    build = lambda **numerics: Logits(sf.abstract_model("ccnet_resnet101", **numerics))
    check_parity("ccnet_resnet101", build)


def test_scales_of_either_sign_are_one_scale():
    model = sf.create_model("ccnet_resnet101", **SMALL)
    state = sf.save_torch(model)
    other = sf.create_model("ccnet_resnet101", **SMALL, rngs=nnx.Rngs(1))
    sf.load_torch(other, {n: -a if n.endswith("bn1.weight") else a for n, a in state.items()})
    x = jax.random.normal(jax.random.key(0), (1, 40, 24, 3))
    ours, theirs = (apply(sf.evaluation_mode(m), x) for m in (model, other))
    assert ours.shape == (1, 40, 24, 3)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_impossible_options_are_named():
    with pytest.raises(ValueError, match="recurrence=0"):
        sf.abstract_model("ccnet_resnet101", recurrence=0)
    with pytest.raises(ValueError, match=r"expected \[N, H, W, 3\]"):
        sf.create_model("ccnet_resnet101", **SMALL)(jnp.ones((1, 16, 16, 4)))
