"""The residual network itself: blocks, shapes, head, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.models.classifier import STEMS
from spectral_flax.models.head import Head
from spectral_flax.models.residual import Geometry, Residual, ResidualBlock
from spectral_flax.models.resnet import ResNet, Stem

SHALLOW = dict(depths=(1, 1, 1, 1), width=8, head=Head(num_classes=5))
BASIC = Residual(bottleneck=False)


class Marker(nnx.Module):
    """A block that adds a constant and remembers the size it was built for."""

    def __init__(self, features, *, rank, size=None, rngs, **_):
        self.features, self.size = features, size

    def __call__(self, x):
        return x + 1


def build(**options) -> ResNet:
    model = ResNet(**SHALLOW | options, rngs=nnx.Rngs(0))
    model.eval()
    return model


def clip(*shape):
    return jax.random.normal(jax.random.key(1), shape)


def run(model, x, method="__call__"):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, x: getattr(nnx.merge(graphdef, state), method)(x))(state, x)


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (224, 192), (1, 1)], ids=str)
def test_map_sizes_are_those_of_the_features_of_an_image(size):
    model = build()
    maps = jax.eval_shape(model.features, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    assert set(maps) == {"stem", "stage1", "stage2", "stage3", "stage4"}
    assert model.map_sizes(size) == [maps[f"stage{i}"].shape[1:-1] for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("margin", [0, 1])
@pytest.mark.parametrize("size", [(8, 64, 64), (5, 33, 47), (4, 112, 112), (2, 224, 256)], ids=str)
def test_map_sizes_are_those_of_the_features_of_a_clip(size, margin):
    model = build(rank=3, temporal_pool_stride=2, stem=Stem(pool_padding=margin))
    maps = jax.eval_shape(model.features, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    frames = [maps[f"stage{i}"].shape[1] for i in (1, 2)]
    assert frames == [size[0], size[0] // 2]
    assert model.map_sizes(size) == [maps[f"stage{i}"].shape[1:-1] for i in (1, 2, 3, 4)]


def test_map_sizes_know_of_dilation():
    model = build(geometry=Geometry(dilated=(3, 4)))
    maps = jax.eval_shape(model.features, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert model.map_sizes((64, 64))[-1] == maps["stage4"].shape[1:-1] == (8, 8)


def test_a_block_stands_after_each_named_residual_block_and_knows_its_map():
    places = {2: (0,), 3: (0,)}
    model = build(block=Marker, blocks_at=places, input_size=(96, 64), residual=BASIC)
    kinds = [[type(block) for block in stage] for stage in model.stages]
    plain, marked = [ResidualBlock], [ResidualBlock, Marker]
    assert kinds == [plain, marked, marked, plain]
    assert model.stage2[1].size == (12, 8)
    assert model.stage3[1].features == 32
    x = clip(1, 32, 32, 3)
    marked, unmarked = (run(m, x, "features") for m in (model, build(residual=BASIC)))
    np.testing.assert_allclose(marked["stage1"], unmarked["stage1"])
    np.testing.assert_allclose(marked["stage2"], unmarked["stage2"] + 1)


def test_windows_of_the_head_that_cover_the_map_are_the_plain_mean():
    options = dict(rank=3, temporal_pool_stride=2)
    x = clip(1, 4, 32, 32, 3)
    whole, windows = build(**options), build(**options, head=Head(num_classes=5, pool_size=7))
    np.testing.assert_allclose(run(whole, x), run(windows, x), rtol=1e-5, atol=1e-5)


def test_the_head_is_averaged_over_all_windows_of_the_last_map():
    model = build(rank=3, head=Head(num_classes=5, pool_size=2), depths=(1, 1))
    x = clip(2, 2, 24, 24, 3)
    last = np.asarray(run(model, x, "features")["stage2"])
    assert last.shape[1:4] == (2, 3, 3)
    corners = [last[:, :, i : i + 2, j : j + 2].mean((1, 2, 3)) for i in (0, 1) for j in (0, 1)]
    kernel, bias = (np.asarray(p[...]) for p in (model.head.kernel, model.head.bias))
    expected = np.mean([corner @ kernel + bias for corner in corners], axis=0)
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-4, atol=1e-4)


def test_no_classes_leave_the_pooled_features():
    model = build(head=Head(num_classes=None, pool_size=2), rank=3, depths=(1, 1))
    assert run(model, clip(2, 2, 32, 32, 3)).shape == (2, model.num_features)


def test_dropout_stands_before_the_head_in_training_only():
    model = build(head=Head(num_classes=5, dropout=0.5), stem=STEMS["small"], depths=(1,))
    x = clip(1, 8, 8, 3)
    np.testing.assert_array_equal(model(x), model(x))
    model.set_attributes(deterministic=False)
    assert np.abs(model(x) - model(x)).max() > 0


def test_a_dilated_network_keeps_the_parameters_of_the_plain_one():
    shapes = lambda model: jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(model)))
    assert shapes(build(geometry=Geometry(dilated=(4,)))) == shapes(build())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(blocks_at={2: (0,)}), "no block"),
        (dict(block=Marker, blocks_at={5: (0,)}), "stage 5"),
        (dict(block=Marker, blocks_at={2: (1,)}), "number 1 of stage 2"),
        (dict(block=Marker, blocks_at={2: (0,)}, input_size=(8, 64, 64)), "expected H, W"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        (Residual, dict(ratio=1.5), "ratio=1.5"),
        (Head, dict(num_classes=0), "num_classes=0"),
        (Head, dict(dropout=1.0), "dropout=1.0"),
    ],
)
def test_impossible_values_of_records_are_named(record, options, message):
    with pytest.raises(ValueError, match=message):
        record(**options)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((1, 64, 64, 3), ValueError, "N, T, H, W, 3"),
        ((1, 8, 64, 64, 1), ValueError, "N, T, H, W, 3"),
        ((1, 1, 64, 64, 3), ValueError, "too small"),
        ((1, 8, 3, 64, 3), ValueError, "too small"),
        ((1, 0, 64, 64, 3), ValueError, "empty"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused(shape, error, message):
    model = build(rank=3, temporal_pool_stride=2, stem=Stem(pool_padding=0))
    with pytest.raises(error, match=message):
        model(jnp.zeros(shape))


def test_integers_are_refused():
    with pytest.raises(TypeError, match="floating"):
        build()(jnp.zeros((1, 64, 64, 3), jnp.uint8))


def test_a_partial_of_a_layer_may_be_the_block():
    block = functools.partial(Marker)
    assert isinstance(build(block=block, blocks_at={1: (0,)}).stage1[1], Marker)


def test_an_example_skips_a_block_whole_more_often_the_deeper_it_stands():
    model = sf.create_model("resnet18", width=4, depths=(2, 2), num_classes=2, drop_path=0.6)
    rates = [block.drop_path and block.drop_path.rate for stage in model.stages for block in stage]
    assert rates[0] is None and rates[1:] == pytest.approx([0.2, 0.4, 0.6])
    block, x = model.stage2[1], jax.random.uniform(jax.random.key(0), (64, 4, 4, 8))
    block.train()
    skipped = np.asarray((block(x) == x).all((1, 2, 3)))
    assert 0.4 < skipped.mean() < 0.8
    block.eval()
    assert not (block(x) == x).all((1, 2, 3)).any()
    plain = sf.create_model("resnet18", width=4, depths=(2, 2), num_classes=2)
    sf.load_torch(model, sf.save_torch(plain))  # of the same parameters
    model.eval(), plain.eval()
    image = jnp.ones((1, 32, 32, 3))
    np.testing.assert_array_equal(model(image), plain(image))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_chance_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=r"drop_path=.* lies outside"):
        sf.abstract_model("resnet18", drop_path=rate)
