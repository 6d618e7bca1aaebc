"""Parts of a model that have their own rate or clipping."""

import jax.numpy as jnp
import numpy as np
import pytest

from train.config import Optimizer
from train.errors import UserError
from train.run.adversarial import alternating_gradients
from train.run.optimizers import clip_parts, make_optimizer, part_of, scale_parts

GRADIENT = {
    "head.kernel": jnp.array([3.0, 4.0]),
    "head2.kernel": jnp.array([6.0, 8.0]),
    "header": jnp.array([0.0, 0.5]),
    "stem.head.kernel": jnp.array([0.0, 0.25]),
}


def test_a_part_holds_the_names_below_it_and_no_others():
    held = {name: part_of(name, ["head"]) for name in ("head", *GRADIENT)}
    assert [name for name, part in held.items() if part] == ["head", "head.kernel"]


@pytest.mark.parametrize("parts", [("stem", "stem.head"), ("stem.head", "stem")])
def test_of_nested_parts_the_innermost_decides_in_whatever_order(parts):
    assert part_of("stem.head.kernel", parts) == "stem.head"
    assert part_of("stem.conv.kernel", parts) == "stem"
    factors = {part: 10.0 ** len(part) for part in parts}
    scale = scale_parts(factors)
    params = {"stem.a": jnp.ones(1), "stem.head.a": jnp.ones(1)}
    moved = scale.update(params, scale.init(params))[0]
    np.testing.assert_allclose([moved["stem.a"][0], moved["stem.head.a"][0]], [1e4, 1e9])


def test_a_part_is_clipped_without_those_whose_names_begin_alike():
    clip = clip_parts(1.0, ("head",))
    clipped = clip.update(GRADIENT, clip.init(GRADIENT))[0]
    np.testing.assert_allclose(clipped["head.kernel"], [0.6, 0.8], rtol=1e-6)
    rest = [name for name in GRADIENT if name != "head.kernel"]
    norm = np.sqrt(sum(float(jnp.sum(GRADIENT[name] ** 2)) for name in rest))
    for name in rest:
        np.testing.assert_allclose(clipped[name], GRADIENT[name] / norm, rtol=1e-6)


def test_a_factor_moves_no_part_whose_name_begins_alike():
    scale = scale_parts({"head": 0.0})
    moved = scale.update(GRADIENT, scale.init(GRADIENT))[0]
    assert not moved["head.kernel"].any()
    for name in GRADIENT.keys() - {"head.kernel"}:
        np.testing.assert_array_equal(moved[name], GRADIENT[name])


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_factor_of_no_part_is_an_error_before_the_first_step(clip_norm):
    optimizer = Optimizer(factors={"hea": 0.1}, clip_norm=clip_norm)
    with pytest.raises(UserError, match="hea"):
        make_optimizer(optimizer, lambda step: 0.1).init(GRADIENT)


def test_turns_move_no_part_whose_name_begins_alike():
    gradient = lambda params, rest, batch, key: ({}, rest, params)
    compute = alternating_gradients(gradient, ("head", "head2"), lambda grads: grads)
    params = {"head.a": jnp.ones(1), "head2.a": jnp.ones(1)}
    grads = compute(params, {}, None, None)[2]
    np.testing.assert_allclose([grads["head.a"][0], grads["head2.a"][0]], [1.0, 1.0])
