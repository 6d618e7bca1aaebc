"""Configs: every one loads, makes sense, and its model and optimiser can be built."""

import ast
import functools
import re
import runpy
from pathlib import Path

import jax
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.models.registry import MODELS
from train.command.checks import check
from train.command.line import load
from train.errors import UserError
from train.tasks import make_task, open_data

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.py"))


def variants(path):
    return [path, *(f"{path}:{name}" for name in runpy.run_path(path).get("variants", ()))]


def narrow(model, given):
    """Return options for a copy that is quicker to build, with all those that the config has."""
    small = dict(width=32, depth=2)
    if not given.keys() & {"blocks_at", "deformable_at"}:  # which name blocks of the full depths
        small["depths"] = (1, 1, 1, 1)
    return {k: v for k, v in small.items() if k in MODELS[model].options} | given


ALL = [name for path in CONFIGS for name in variants(path)]


@functools.cache
def built(model, options):
    """Build a model in shapes; ``options`` are given as text, since many configs have the same."""
    sf.abstract_model(model, **narrow(model, ast.literal_eval(options)))


@pytest.mark.parametrize("name", ALL)
def test_a_config_makes_sense_and_names_a_model_with_its_options(name):
    config = check(load(name))
    if config.model is None:  # that of the weights it begins from
        return
    built(config.model, repr(config.options))
    if config.pretrained.inflate:
        built(config.pretrained.inflate, repr(config.pretrained.inflate_options))


@pytest.mark.parametrize("name", [name for name in ALL if name.endswith("_smoke")])
def test_a_small_variant_takes_its_data(name):
    config = load(name)
    task = make_task(config, open_data(config, "train"))
    model = sf.abstract_model(config.model, **task.model_options | config.options)
    graphdef, state = nnx.split(model)

    def loss(state, batch, key):
        return task.loss(nnx.merge(graphdef, state), batch, key)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    assert jax.eval_shape(loss, state, task.batch_shape(2), key).shape == ()


@pytest.mark.parametrize("path", CONFIGS)
def test_a_config_says_what_it_is_and_how_it_is_run(path):
    text = Path(path).read_text()
    assert re.match(r"\"\"\"[^\n]+\n\n", text) and f"python -m train {path}" in text


def test_a_variant_that_does_not_exist_names_its_neighbour():
    with pytest.raises(UserError, match="no variant 'resnet50_bta'; closest: resnet50_bat"):
        load("configs/imagenet.py:resnet50_bta")


VARIED = [
    f"configs/{name}.py"
    for name in ("imagenet", "imagenet_compared", "kinetics", "kinetics_compared")
]


@pytest.mark.parametrize("path", VARIED)
def test_every_published_recipe_has_a_small_one(path):
    names = [name.partition(":")[2] for name in variants(path)[1:]]
    published = runpy.run_path(path)["published"]
    assert {f"{name}_smoke" for name in published} <= set(names)


def test_the_recipe_of_bilinear_attention_is_the_published_one():
    config = load("configs/kinetics.py:c2d_resnet50_bat3d")
    optimizer, schedule = config.optimizer, config.schedule
    assert (config.epochs, config.batch_size) == (100, 64)
    assert (optimizer.learning_rate, optimizer.clip_norm, optimizer.bias_factor) == (0.01, 20, 2)
    assert (schedule.drop_at, optimizer.decay) == ((0.4, 0.8), "kernels")
