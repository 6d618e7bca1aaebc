"""Adversaries that move in turn, on a game small enough to play by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.config import Optimizer
from train.run.adversarial import alternating_gradients
from train.run.optimizers import make_optimizer

PARTS = ("generator", "discriminator")
STATE = {"generator.a": jnp.array([1.0, -2.0]), "discriminator.b": jnp.array([0.5, 3.0])}


def gradient(params, rest, batch, key):
    """Of a * b for the one and of -a * b for the other; ``rest`` counts the calls."""
    a, b = params["generator.a"], params["discriminator.b"]
    grads = {"generator.a": b * batch, "discriminator.b": -a * batch}
    return {"product": jnp.vdot(a, b)}, {"calls": rest["calls"] + 1}, grads


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_second_part_learns_from_the_first_as_it_has_moved(name, clip_norm):
    factors = {"discriminator": 0.5}
    options = dict(name=name, momentum=0.5, weight_decay=0.01, clip_norm=clip_norm, factors=factors)
    tx = make_optimizer(Optimizer(**options), optax.constant_schedule(0.1))
    params, opt_state = dict(STATE), tx.init(STATE)
    ours, our_state = dict(STATE), tx.init(STATE)
    for _ in range(3):
        move = lambda grads, s=our_state, p=ours: tx.update(grads, s, p)[0]
        compute = alternating_gradients(gradient, PARTS, move)
        scalars, rest, grads = compute(ours, {"calls": 0}, 2.0, None)
        assert rest["calls"] == 2
        np.testing.assert_allclose(scalars["product"], np.vdot(*ours.values()), rtol=1e-6)
        updates, our_state = tx.update(grads, our_state, ours)
        ours = optax.apply_updates(ours, updates)
        # By hand: the generator moves, then the other one against it.
        first = gradient(params, {"calls": 0}, 2.0, None)[2]
        moved = optax.apply_updates(params, tx.update(first, opt_state, params)[0])
        half = params | {"generator.a": moved["generator.a"]}
        second = gradient(half, {"calls": 0}, 2.0, None)[2]
        both = first | {"discriminator.b": second["discriminator.b"]}
        updates, opt_state = tx.update(both, opt_state, params)
        params = optax.apply_updates(params, updates)
        for part in STATE:
            np.testing.assert_allclose(ours[part], params[part], rtol=1e-6)
    at_once = gradient(STATE, {"calls": 0}, 2.0, None)[2]
    move = lambda grads: tx.update(grads, tx.init(STATE), STATE)[0]
    in_turns = alternating_gradients(gradient, PARTS, move)(STATE, {"calls": 0}, 2.0, None)[2]
    np.testing.assert_array_equal(in_turns["generator.a"], at_once["generator.a"])
    assert not np.allclose(in_turns["discriminator.b"], at_once["discriminator.b"])


def test_the_inpainting_task_names_the_parts_of_its_model():
    from train.tasks.inpainting.task import Adversaries, Inpainting

    task = Inpainting(image_shape=(16, 16, 3))
    assert task.players == PARTS
    assert set(vars(Adversaries(None, None))) >= set(PARTS)


@pytest.mark.parametrize("factors", [{}, {"discriminator": 1.0}, {"generator": 1.0}])
def test_each_adversary_is_clipped_by_itself_whatever_the_factors(factors):
    rule = Optimizer(momentum=0.0, weight_decay=0.0, clip_norm=1.0, factors=factors)
    tx = make_optimizer(rule, optax.constant_schedule(1.0), PARTS)
    state = {"generator.a": jnp.zeros(2), "discriminator.b": jnp.zeros(2)}
    for other in (0.0, 1000.0):
        grads = {"generator.a": jnp.array([3.0, 4.0]), "discriminator.b": jnp.full(2, other)}
        moved = tx.update(grads, tx.init(state), state)[0]
        np.testing.assert_allclose(moved["generator.a"], [-0.6, -0.8], rtol=1e-6)
