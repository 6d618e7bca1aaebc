"""Pure functions and Linen modules compute what the NNX model does, with its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import spectral_flax as sf

NAME = "resnet18"
OPTIONS = dict(depths=[1], width=8, num_classes=4, dropout=0.5)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(0), (2, 16, 16, 3))


@pytest.fixture(scope="module")
def model():
    """A model with statistics that are not those it began with."""
    model = sf.create_model(NAME, rngs=nnx.Rngs(KEY), **OPTIONS)
    shifted = jax.tree.map(lambda a: a + 0.5, nnx.state(model, nnx.BatchStat))
    nnx.update(model, shifted)
    return model


@pytest.fixture(scope="module")
def evaluated(model, x):
    """The model's answer, and its maps."""
    model = sf.evaluation_mode(model)
    return nnx.jit(lambda model, x: (model(x), model.features(x)))(model, x)


@pytest.fixture(scope="module")
def trained(model, x):
    """The answer and the variables of a step of training without dropout."""
    trained = nnx.view(nnx.clone(model), deterministic=True)
    y = nnx.jit(lambda model, x: model(x))(trained, x)
    return y, sf.get_variables(trained)


def assert_close(ours, theirs, tolerance=1e-4):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_pure_functions_equal_the_module(model, x, evaluated, trained):
    _, apply = sf.init_apply(NAME, **OPTIONS | dict(dropout=0.0))
    variables = sf.get_variables(model)
    y, same = jax.jit(apply)(variables, x)
    assert_close(y, evaluated[0])
    assert_equal(same, variables)
    y, updated = jax.jit(apply, static_argnames="train")(variables, x, train=True)
    assert_close(y, trained[0], 1e-3)
    assert_close(updated, trained[1])


def test_maps_come_from_the_method_of_that_name(model, x, evaluated):
    _, apply = sf.init_apply(NAME, **OPTIONS)
    maps, _ = jax.jit(apply, static_argnames="method")(
        sf.get_variables(model), x, method="features"
    )
    assert_close(maps, evaluated[1])


def test_variables_can_be_mapped_over_seeds():
    init, apply = sf.init_apply(NAME, **OPTIONS)
    variables = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), 2))
    images = jnp.ones((1, 16, 16, 3))
    logits, _ = jax.jit(jax.vmap(apply, (0, None)))(variables, images)
    assert logits.shape == (2, 1, 4)
    assert not np.allclose(logits[0], logits[1])


def test_a_seed_gives_what_it_gives_the_module_whatever_the_kind_of_its_key(x):
    init, apply = sf.init_apply(NAME, **OPTIONS)
    variables = init(KEY)
    assert_equal(variables, sf.get_variables(sf.create_model(NAME, rngs=nnx.Rngs(3), **OPTIONS)))
    old = jax.random.PRNGKey(3)
    assert_equal(init(old), variables)
    jax.eval_shape(lambda key: apply(variables, x, train=True, rng=key), old)


def test_variables_go_out_and_in(model):
    variables = sf.get_variables(model)
    other = sf.create_model(NAME, rngs=nnx.Rngs(0), **OPTIONS)
    sf.set_variables(other, variables)
    assert_equal(sf.get_variables(other), variables)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda v: v | {"cache": {}}, ValueError, "the collection 'cache'; expected"),
        (lambda v: {"params": v["params"]}, sf.CheckpointError, "stem.norm.mean"),
        (lambda v: v | {"params": {}}, sf.CheckpointError, "head.kernel"),
    ],
)
def test_variables_that_do_not_fit_leave_the_model(model, change, error, message):
    before = sf.get_variables(model)
    with pytest.raises(error, match=message):
        sf.set_variables(model, change(before))
    assert_equal(sf.get_variables(model), before)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda v: {"params": v["params"]}, "lack batch_stats/stage1/0/conv1/norm/mean"),
        (lambda v: v | {"params": {"stem": v["params"]["stem"]}}, "lack params/"),
        (
            lambda v: v | {"params": v["params"] | {"head": {"bias": jnp.ones(3)}}},
            r"params/head/bias has shape \(3,\); resnet18 takes \(4,\)",
        ),
    ],
)
def test_a_variable_that_a_call_lacks_is_named(model, x, change, message):
    _, apply = sf.init_apply(NAME, **OPTIONS)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(apply, change(sf.get_variables(model)), x)


def test_a_linen_module_equals_the_model(model, x, evaluated, trained):
    module = sf.to_linen(NAME, **OPTIONS | dict(dropout=0.0))
    variables = sf.get_variables(model)
    assert_close(jax.jit(module.apply)(variables, x), evaluated[0])
    maps = jax.jit(lambda v, x: module.apply(v, x, method="features"))(variables, x)
    assert_close(maps, evaluated[1])
    step = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))
    y, updated = step(variables, x)
    assert_close(y, trained[0], 1e-3)
    assert_close(updated["batch_stats"], trained[1]["batch_stats"])


def test_init_gives_the_variables_of_the_model_and_leaves_its_statistics_new(model, x):
    module = sf.to_linen(NAME, **OPTIONS)
    made = jax.jit(lambda key, x: module.init(key, x, train=True))(KEY, x)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(made) == shapes(sf.get_variables(model))
    norm = made["batch_stats"]["stem"]["norm"]
    assert np.all(norm["mean"] == 0) and np.all(norm["var"] == 1)


def test_a_linen_loop_trains(x):
    """The loop of Flax's own examples, with dropout and batch statistics."""

    class State(TrainState):
        batch_stats: dict

    module = sf.to_linen(NAME, **OPTIONS)
    variables = sf.init_apply(NAME, **OPTIONS)[0](KEY)
    state = State.create(
        apply_fn=module.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.sgd(0.1),
    )
    labels = jnp.array([1, 2])

    @jax.jit
    def step(state, key):
        def loss(params):
            logits, updated = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                x,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updated

        (value, updated), slope = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=slope, batch_stats=updated["batch_stats"]), value

    losses = [float(step(state, jax.random.key(seed))[1]) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]  # dropout follows its key
    for seed in range(4):
        state, value = step(state, jax.random.key(seed))
    assert value < losses[0]


def test_a_linen_module_stands_in_another(model, x, evaluated):
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            backbone = sf.to_linen(NAME, **OPTIONS)
            maps = backbone.features(x, train)
            return nn.Dense(2)(maps["stage1"].mean((1, 2))), backbone(x, train)

    module = Twice()
    variables = jax.eval_shape(module.init, KEY, x)
    assert set(variables["params"]) == {"LinenModel_0", "Dense_0"}
    ours = sf.get_variables(model)
    within = {name: {"LinenModel_0": tree} for name, tree in ours.items()}
    within["params"]["Dense_0"] = {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}
    _, logits = jax.jit(module.apply)(within, x)
    assert_close(logits, evaluated[0])


def test_a_linen_module_is_a_value_and_can_be_mapped(x):
    block = dict(block="bat", block_options={"groups": 2, "grid": 2}, blocks_at={1: [0]})
    make = lambda: sf.to_linen(NAME, **OPTIONS, **block)
    assert make() == make() and hash(make()) == hash(make())
    many = nn.vmap(
        sf.LinenModel,
        in_axes=None,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        axis_size=2,
    )
    module = many(NAME, make().options)
    variables = jax.eval_shape(module.init, KEY, x)
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (2, 7, 7, 3, 8)
    assert jax.eval_shape(module.apply, variables, x).shape == (2, 2, 4)


def test_what_is_viewed_reaches_the_model(mesh, model, x):
    options = OPTIONS | dict(dropout=0.0)
    module = sf.to_linen(NAME, view={"axis_name": "data", "remat": True}, **options)
    spec = jax.sharding.PartitionSpec
    step = lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])[1]
    spread = jax.shard_map(step, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec())
    text = str(jax.make_jaxpr(spread)(sf.get_variables(model), jnp.tile(x, (4, 1, 1, 1))))
    plain = str(jax.make_jaxpr(sf.to_linen(NAME, **options).apply)(sf.get_variables(model), x))
    for primitive in ("psum", "remat"):
        assert primitive in text and primitive not in plain


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: sf.to_linen("resnet81"), ValueError, "no model 'resnet81'; closest: "),
        (lambda: sf.to_linen("resnet18", widht=8), TypeError, "'widht'; closest: width"),
        (lambda: sf.to_linen("resnet18", view={"remta": True}), ValueError, "remta"),
        (lambda: sf.init_apply("resnet18", view={"remta": True}), ValueError, "remta"),
    ],
)
def test_what_is_wrong_is_told_when_a_module_is_made(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_training_needs_what_linen_calls_for(x):
    module = sf.to_linen(NAME, **OPTIONS)
    variables = jax.eval_shape(module.init, KEY, x)
    train = dict(train=True)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda v: module.apply(v, x, mutable=["batch_stats"], **train), variables)
    with pytest.raises(Exception, match="batch_stats"):
        jax.eval_shape(lambda v: module.apply(v, x, rngs={"dropout": KEY}, **train), variables)
