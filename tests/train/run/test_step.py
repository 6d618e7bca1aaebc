"""The step in its variants: all must learn the same, some with other devices, memory or passes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import MOVES
from flax import nnx
from own_models import entry

from spectral_flax.models.registry import MODELS
from train.checkpoints.state import make_model, make_state, split
from train.config import Config, Mesh, Optimizer
from train.run.mesh import make_mesh, shard_batch, state_sharding
from train.run.optimizers import make_optimizer, make_schedule, peak_learning_rate
from train.run.record import Run
from train.run.step import make_train_step
from train.tasks.classification.task import Classification

ONE, EIGHT = Mesh(devices=1), Mesh(devices=8)


def shared(parts):
    return Mesh(devices=8, fsdp=parts, fsdp_min_size=64)


def config(**changes):
    defaults = dict(
        model="ffc_resnet18",
        options={"width": 8, "depths": (1,), "stem": "small", "ratio": 0.5, "lfu": False},
        steps=4,
        batch_size=16,
        optimizer=Optimizer(learning_rate=0.1, reference_batch=16),
    )
    return Config(**defaults | changes)


class Plain(nnx.Module):
    """A convolution and a head, without statistics of a batch."""

    def __init__(self, num_classes, in_features, rngs):
        self.conv = nnx.Conv(in_features, 16, (3, 3), rngs=rngs)
        self.head = nnx.Linear(8 * 8 * 16, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).reshape(len(x), -1))


@pytest.fixture
def plain(monkeypatch):
    """Return a function from changes to a config of the plain network."""

    def build(*, num_classes, in_features=3, rngs):
        return Plain(num_classes, in_features, rngs)

    monkeypatch.setitem(MODELS, "plain", entry("plain", build))
    return functools.partial(config, model="plain", options={})


def built(config):
    """Return the compiled step, the state before it and the arrays of a batch."""
    mesh = make_mesh(config.mesh)
    task = Classification(10, (8, 8, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
    network, params, rest = split(make_model(config, task))
    rate = make_schedule(config.schedule, peak_learning_rate(config), config.steps)
    tx = make_optimizer(config.optimizer, rate)
    state = make_state(config, params, rest, tx)
    state = jax.device_put(state, state_sharding(mesh, state, config.mesh.fsdp_min_size))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (config.batch_size, 8, 8, 3)).astype(np.uint8),
        "label": rng.integers(0, 10, config.batch_size).astype(np.int32),
    }
    step = make_train_step(Run(config, mesh, task, network, tx, rate), state)
    return step, state, shard_batch(mesh, batch)


def trained(config, steps=2):
    step, state, batch = built(config)
    for _ in range(steps):
        state, scalars = step(state, batch)
    return jax.device_get((state, scalars))


@pytest.fixture(scope="module")
def reference():
    return trained(config(mesh=ONE))


def assert_same(found, reference, tolerance=2e-4):
    for a, b in zip(*(jax.tree.leaves(x[0][1:4]) for x in (found, reference)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found[1]["loss"], reference[1]["loss"], rtol=1e-4)


SAME = {
    "eight devices": dict(mesh=EIGHT),
    "per device": dict(mesh=EIGHT, parallel="pmap"),
    "per device, one": dict(mesh=ONE, parallel="pmap"),
    "shared by two": dict(mesh=shared(2)),
    "shared by eight": dict(mesh=shared(8)),
    "images shared by four": dict(mesh=Mesh(devices=8, space=4)),
    "rematerialised": dict(mesh=ONE, remat=True),
}


@pytest.mark.parametrize("changes", SAME.values(), ids=SAME)
def test_every_way_over_the_devices_takes_the_same_steps(changes, reference):
    assert_same(trained(config(**changes)), reference)


def test_local_statistics_are_those_of_a_device(reference):
    local = trained(config(mesh=EIGHT, parallel="pmap", sync_batch_norm=False), steps=1)
    whole = trained(config(mesh=EIGHT, parallel="pmap"), steps=1)
    differs = {
        name
        for name, value in local[0].model_state.items()
        if not np.allclose(value, whole[0].model_state[name], rtol=1e-5)
    }
    # The mean over devices of their means is the mean of all; variances inside devices are less.
    assert "stem.norm.var" in differs and "stem.norm.mean" not in differs
    assert np.all(np.isfinite(local[0].model_state["stem.norm.var"]))


def program(config):
    step, state, batch = built(config)
    return step.lower(state, batch).compile().as_text()


@pytest.mark.parametrize("parallel", ["pjit", "pmap"])
def test_both_ways_exchange_gradients_and_statistics_alone(parallel):
    text = program(config(mesh=EIGHT, parallel=parallel))
    assert "all-reduce" in text and not re.search(MOVES, text)
    assert " while(" not in text  # in which a message would be sent many times


def test_shared_parameters_are_gathered_and_nothing_of_the_batch():
    _, state, _ = built(config(mesh=shared(4)))
    sizes = {leaf.shape for leaf in state.params.values()}
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", program(config(mesh=shared(4))))
    shapes = [tuple(map(int, shape.split(","))) for shape in gathered]
    assert shapes
    # XLA may drop or fold axes of length 1 of a kernel.
    squeezed = {tuple(n for n in shape if n > 1) for shape in sizes}
    assert all(tuple(n for n in shape if n > 1) in squeezed for shape in shapes)


def test_a_share_of_every_large_array_lies_on_each_device():
    _, state, _ = built(config(mesh=shared(4), optimizer=Optimizer(name="adamw")))
    large = {
        n for n, a in state.params.items() if a.size >= 64 and any(s % 4 == 0 for s in a.shape)
    }
    local = {n: a.addressable_shards[0].data.size for n, a in state.params.items()}
    assert large
    for name, array in state.params.items():
        assert local[name] == array.size / (4 if name in large else 1), name
    moments = jax.tree.leaves(state.opt_state)
    assert sum(a.addressable_shards[0].data.size < a.size for a in moments) == 2 * len(large)


@pytest.mark.parametrize("changes", [dict(mesh=ONE), dict(mesh=EIGHT), SAME["per device"]], ids=str)
def test_accumulated_parts_give_the_mean_of_their_gradients(changes, plain):
    """Nothing in the network looks at the whole batch, so the parts are the whole."""
    rate = Optimizer(learning_rate=1.0, reference_batch=None, momentum=0.0)
    results = []
    for parts in (1, 2):
        step, state, batch = built(
            plain(**changes, batch_size=32, accumulate=parts, optimizer=rate)
        )
        before = jax.device_get(state.params)
        results.append(jax.device_get(step(state, batch)))
    (whole, scalars), (split_, part_scalars) = results
    assert scalars.keys() == part_scalars.keys() and whole.params.keys() == before.keys()
    for name, start in before.items():
        assert np.abs(whole.params[name] - start).max() > 1e-3, name
        np.testing.assert_allclose(split_.params[name], whole.params[name], atol=1e-6)
    for name, value in scalars.items():
        np.testing.assert_allclose(part_scalars[name], value, rtol=1e-6, atol=1e-6)
    assert int(split_.step) == 1


def test_the_parts_of_a_step_see_their_own_random_numbers():
    from train.run.step import _accumulated

    def gradient(params, rest, batch, key):
        return {"loss": jax.random.uniform(key)}, rest, {"w": batch["x"].sum()}

    batch = {"x": jnp.arange(6.0)}
    scalars, _, grads = _accumulated(gradient, 3)({}, {}, batch, jax.random.key(0))
    draws = [jax.random.uniform(key) for key in jax.random.split(jax.random.key(0), 3)]
    assert len({float(draw) for draw in draws}) == 3
    np.testing.assert_allclose(scalars["loss"], np.mean(draws), rtol=1e-6)
    np.testing.assert_allclose(grads["w"], 5.0)


def test_rematerialisation_keeps_less():
    options = {"width": 16, "depths": (3, 3), "stem": "small"}
    deep = functools.partial(config, mesh=ONE, model="resnet18", options=options, batch_size=64)
    memory = {}
    for remat in (False, True):
        step, state, batch = built(deep(remat=remat))
        memory[remat] = step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
    assert memory[True] < 0.8 * memory[False]


def test_bfloat16_leaves_parameters_and_statistics_in_float32():
    state, scalars = trained(config(mesh=ONE, dtype="bfloat16"))
    assert {a.dtype for a in state.params.values()} == {np.dtype("float32")}
    assert {a.dtype for n, a in state.model_state.items() if "norm" in n} == {np.dtype("float32")}
    assert np.isfinite(scalars["loss"])
    assert "bf16" in program(config(mesh=ONE, dtype="bfloat16"))


def test_the_average_follows_the_parameters():
    step, state, batch = built(config(mesh=ONE, ema_decay=0.5))
    expected = jax.device_get(state.ema_params)
    for count in range(3):
        state, _ = step(state, batch)
        kept = min(0.5, (1 + count) / (10 + count))
        params = jax.device_get(state.params)
        expected = {n: kept * a + (1 - kept) * params[n] for n, a in expected.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(state.ema_params[name], value, rtol=1e-5, atol=1e-6)
    assert state.eval_params is state.ema_params


def test_without_an_average_the_parameters_are_evaluated():
    _, state, _ = built(config(mesh=ONE))
    assert state.ema_params == {} and state.eval_params is state.params


def test_a_step_that_is_not_finite_is_undone_and_counted():
    step, state, batch = built(config(mesh=ONE, non_finite="skip", ema_decay=0.9))
    state = state._replace(params=state.params | {"head.bias": jnp.full(10, jnp.inf)})
    before = jax.device_get(state)
    state, scalars = step(state, batch)
    after = jax.device_get(state)
    assert not np.isfinite(scalars["loss"]) and int(scalars["skipped"]) == 1
    assert int(after.step) == int(before.step) + 1
    for group in ("params", "model_state", "opt_state", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, group), getattr(after, group))
    state = state._replace(params=state.params | {"head.bias": jnp.zeros(10)})
    state, scalars = step(state, batch)
    assert np.isfinite(scalars["loss"]) and int(scalars["skipped"]) == 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "muon"])
def test_every_optimizer_lowers_the_loss(name, plain):
    rate = {"sgd": 0.05, "lamb": 0.02, "muon": 0.02}.get(name, 0.005)
    optimizer = Optimizer(name=name, learning_rate=rate, reference_batch=None)
    step, state, batch = built(plain(mesh=ONE, steps=30, optimizer=optimizer))
    losses = []
    for _ in range(12):
        state, scalars = step(state, batch)
        losses.append(float(scalars["loss"]))
    assert losses[-1] < 0.7 * losses[0]
