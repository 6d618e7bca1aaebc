import functools
import math
from itertools import cycle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import copied, count, split
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.load import load_torch, save_torch
from spectral_flax.layers.blocks import blocks_of_rank
from spectral_flax.layers.modes import evaluation_mode

SMALL = dict(width=8, input_size=(32, 48))
PLACES = tuple(f"{side}/up{stage}" for side in "ab" for stage in (1, 2, 3, 4))


@functools.cache
def small(name="unet", blocks_at=None, **options):
    return sf.create_model(name, blocks_at=blocks_at, **SMALL | options)


def evaluated(model, method="__call__"):
    graphdef, state = nnx.split(evaluation_mode(model))
    run = jax.jit(lambda state, x: getattr(nnx.merge(graphdef, state), method)(x))
    return functools.partial(run, state)


def shapes(model, *size):
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return {k: y.shape[1:] for k, y in jax.eval_shape(evaluated(model, "features"), x).items()}


def parameters(name) -> int:
    state = nnx.state(sf.abstract_model(name), nnx.Param)
    return sum(math.prod(v.shape) for v in jax.tree.leaves(state))


def test_the_unet_has_the_published_number_of_parameters():
    assert parameters("unet") == 31_037_698  # milesial/Pytorch-UNet, two classes
    # A pointwise convolution for a 2x2 one, 1024 to 512 features.
    assert parameters("unet") - parameters("unet_star") == 3 * 1024 * 512


@pytest.mark.parametrize("size", [(32, 48), (33, 31), (16, 17)], ids=str)
@pytest.mark.parametrize("name", ["unet", "unet_star"])
def test_logits_have_the_size_of_the_image(name, size):
    y = jax.eval_shape(evaluated(small(name)), jnp.zeros((2, *size, 3)))
    assert y.shape == (2, *size, 2)


def test_the_star_keeps_the_deepest_map_at_an_eighth():
    assert shapes(small("unet"), 32, 48)["level4"] == (2, 3, 128)
    deep = shapes(small("unet_star"), 32, 48)
    assert deep["level4"] == (4, 6, 128)
    assert deep["up4"] == (4, 6, 64)
    assert deep["up1"] == (32, 48, 8)


@pytest.mark.parametrize(
    "name", [f"unet{star}_{b}" for b, star in zip(blocks_of_rank(2), cycle(("", "_star")))]
)
def test_every_block_stands_before_and_after_every_stage(name):
    model = sf.abstract_model(name, blocks_at=PLACES, width=64, input_size=(128, 192))
    assert sorted(model.blocks) == sorted(place.replace("/", "_") for place in PLACES)
    graphdef, state = nnx.split(evaluation_mode(model))
    x = jax.ShapeDtypeStruct((1, 128, 192, 3), jnp.float32)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, x)
    assert y.shape == (1, 128, 192, 2)


def test_by_default_the_block_stands_on_the_deepest_map():
    model = small("unet_star_srl_fft", width=8)
    assert list(model.blocks) == ["b_up4"]
    assert model.blocks["b_up4"].features == 128


def test_a_new_spectral_block_changes_nothing():
    plain, block = small("unet_star"), sf.create_model("unet_star_srl_fft", **SMALL)
    state = save_torch(block)
    state |= save_torch(plain)
    load_torch(block, state)
    x = jax.random.normal(jax.random.key(0), (1, 32, 48, 3))
    np.testing.assert_allclose(evaluated(block)(x), evaluated(plain)(x), atol=1e-5)


def test_a_block_sees_the_whole_map():
    def reach(model):  # of the logit in one corner
        f = lambda x: evaluated(model)(x)[0, 0, 0, 0]
        slope = jax.grad(f)(jax.random.normal(jax.random.key(0), (1, 256, 16, 3)))
        return int(jnp.flatnonzero(jnp.abs(slope[0]).max((1, 2)) > 0).max())

    options = dict(width=8, input_size=(256, 16))
    block = sf.create_model("unet_star_srl_lo", **options)
    assert reach(sf.create_model("unet_star", **options)) < 120
    assert reach(block) == 255


def test_published_names():
    names = save_torch(small()).keys()
    assert {
        "inc.double_conv.0.weight",
        "down4.maxpool_conv.1.double_conv.4.running_var",
        "up1.up.bias",
        "up4.conv.double_conv.3.weight",
        "outc.conv.bias",
    } <= names
    assert save_torch(small())["up1.up.weight"].shape == (128, 64, 2, 2)


@pytest.mark.parametrize("name", ["unet_star_srl_lo"])
def test_a_batch_over_devices_needs_no_gather(mesh, name):
    graphdef, params, rest = nnx.split(sf.create_model(name, **SMALL), nnx.Param, ...)
    x = split(mesh, jnp.ones((8, 32, 48, 3)))

    def loss(params, rest, x):
        return (nnx.merge(graphdef, params, rest, copy=True)(x) ** 2).sum()

    assert count(jax.grad(loss), copied(mesh, params), copied(mesh, rest), x) == 0


def test_bfloat16_stays_bfloat16():
    x = jnp.zeros((1, 33, 48, 3))
    y = jax.eval_shape(evaluated(small("unet_star_srl_fft", dtype=jnp.bfloat16)), x)
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet", dict(blocks_at=("b/up4",)), "no block was given"),
        ("unet_nl", dict(blocks_at=("b/up5",)), "'b/up5'; expected a/up1"),
        ("unet_nl", dict(blocks_at=("up4",)), "'up4'"),
        ("unet", dict(num_classes=0), "num_classes=0"),
        ("unet_srl_lo", dict(input_size=(8, 32)), "16 at least"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        sf.abstract_model(name, **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 15, 32, 3), "16 at least"), ((1, 32, 32, 4), r"\[N, H, W, 3\]"), ((32, 32, 3), "N, H")],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        small()(jnp.zeros(shape))
