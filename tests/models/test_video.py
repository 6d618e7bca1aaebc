"""Video classifiers: published sizes and numbers, laws of clips, and what is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import parity_checks
import pytest
from applied import apply
from collectives import copied, count, split
from flax import nnx
from parity_checks import check_parity

import spectral_flax as sf
from spectral_flax.models.classifier import temporal_kernels

NARROW = dict(width=8, num_classes=5)


class Probabilities(nnx.Module):
    """A network that returns logarithms, as published."""

    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return jnp.exp(self.model(x))


full = functools.partial(pytest.param, marks=pytest.mark.full)


def parameters(name, **options) -> int:
    model = sf.abstract_model(name, **options)
    return sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))


def run(model, x):
    model.eval()
    return np.asarray(apply(model, x))


def clip(*shape):
    return jax.random.normal(jax.random.key(1), shape)


@pytest.mark.parametrize(
    ("case", "name", "options"),
    [
        full("c2d_resnet50", "c2d_resnet50", {}),
        ("c2d_resnet50_bat3d", "c2d_resnet50_bat3d", {}),
        full("i3d_resnet50_nl", "i3d_resnet50_nl", {}),
        full("ptv_c2d_r50", "c2d_resnet50", dict(stem_pool_padding=1)),
        full("ptv_i3d_r50", "i3d_resnet50", dict(stem_pool_padding=1)),
        full("slowfast_i3d_nln_r50", "i3d_resnet50_nl", dict(stem_pool_padding=1)),
        ("tsm_resnet50", "tsm_resnet50", {}),
    ],
)
def test_published_models_give_the_published_numbers(case, name, options):
    check_parity(case, functools.partial(sf.abstract_model, name, **options))


@pytest.mark.parametrize(
    ("case", "name", "options"),
    [
        (
            "slowfast_c2d_nopool_r50",
            "c2d_resnet50",
            dict(temporal_pool=1, head_pool_size=(8, 2, 2)),
        ),
        full("slowfast_i3d_r50", "i3d_resnet50", dict(head_pool_size=(4, 2, 2))),
    ],
)
def test_published_probabilities_are_means_over_positions(case, name, options, monkeypatch):
    published = dict(stem_pool_padding=1, mean_of_probabilities=True, **options)
    load = parity_checks.load_torch
    monkeypatch.setattr(parity_checks, "load_torch", lambda model, state: load(model.model, state))
    check_parity(case, lambda **n: Probabilities(sf.abstract_model(name, **published, **n)))


def test_probabilities_are_averaged_over_windows_outside_training_alone():
    options = dict(depths=(1, 1), **NARROW, head_pool_size=(1, 2, 2), temporal_pool=1)
    logits = sf.create_model("c2d_resnet18", **options)
    model = sf.create_model("c2d_resnet18", **options, mean_of_probabilities=True)
    x = clip(1, 2, 48, 48, 3)
    maps = sf.evaluation_mode(logits).features(x)["stage2"]
    windows = nnx.avg_pool(maps, (1, 2, 2))
    wanted = nnx.softmax(logits.head(windows)).mean((1, 2, 3))
    np.testing.assert_allclose(np.exp(run(model, x)), wanted, atol=1e-5)
    assert np.abs(run(logits, x) - run(model, x)).max() > 1e-2
    assert nnx.view(model, deterministic=False).deterministic is False


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("c2d_resnet50", 24_327_632),
        ("c2d_resnet50_bat3d", 29_190_232),
        ("c2d_resnet50_bat", 24_327_632 + 4_852_040),
        ("i3d_resnet50_nl", 35_401_936),
    ],
)
def test_parameters_are_the_published_number(name, published):
    assert parameters(name) == published


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("c2d_resnet50_nl", 31.7),
        ("i3d_resnet50_bat", 32.9),
        ("ffc_c2d_resnet50", 24.9),
        ("ffc_c2d_resnet50_nl", 32.2),
        ("ffc_i3d_resnet50_nl", 35.9),
    ],
)
def test_parameters_round_to_the_published_millions(name, millions):
    assert round(parameters(name) / 1e6, 1) == millions


def test_temporal_kernels_are_the_published_ones():
    assert temporal_kernels((3, 4, 6, 3), True) == [
        [3, 3, 3],
        [3, 1, 3, 1],
        [3, 1, 3, 1, 3, 1],
        [1, 3, 1],
    ]
    assert temporal_kernels((2, 2, 2, 2), False) == [[3, 3]] * 4


def test_every_kind_and_depth_has_every_block_by_name():
    names = set(sf.list_models())
    for ffc in ("", "ffc_"):
        for kind in ("c2d", "i3d"):
            for depth in (18, 34, 50, 101):
                for block in ("", "_nl", "_bat", "_bat3d", "_srl_fft", "_srl_lo", "_glore"):
                    assert f"{ffc}{kind}_resnet{depth}{block}" in names


@pytest.mark.parametrize("size", [(4, 112, 112), (16, 256, 256), (64, 128, 160)], ids=str)
@pytest.mark.parametrize(
    "name", ["i3d_resnet50_bat3d", "c2d_resnet18_srl_lo", "ffc_i3d_resnet18_nl"]
)
def test_clips_of_all_published_sizes_fit(name, size):
    shallow = dict(depths=(1, 1, 1, 1), width=32, num_classes=5)
    model = sf.abstract_model(name, input_size=size, **shallow)
    graphdef, state = nnx.split(nnx.view(model, deterministic=True, use_running_average=True))
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    forward = lambda state, x: nnx.merge(graphdef, state, copy=True).features(x)
    maps = jax.eval_shape(forward, state, x)
    assert set(maps) == {"stem", "stage1", "stage2", "stage3", "stage4"}
    assert maps["stage1"].shape[1] == size[0] and maps["stage4"].shape[1] == size[0] // 2
    assert all(m.shape[0] == 2 for m in maps.values())


@pytest.mark.parametrize("name", ["i3d_resnet18_bat3d", "ffc_i3d_resnet18_nl"])
def test_clips_of_a_batch_do_not_see_each_other(name):
    size = (4, 32, 32)
    ffc = dict(ratio=0.5) if name.startswith("ffc") else {}
    model = sf.create_model(name, depths=(1, 1, 1), input_size=size, **NARROW, **ffc)
    x = clip(2, *size, 3)
    alone = np.concatenate([run(model, x[:1]), run(model, x[1:])])
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(run(model, x), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ratio_in", "ratio_out"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_temporal_ffc_sees_neighbouring_frames_on_every_path(ratio_in, ratio_out):
    ratios = dict(ratio_in=ratio_in, ratio_out=ratio_out)
    layer = sf.layers.FFC(8, 8, (3, 1, 1), rank=3, lfu=False, **ratios, rngs=nnx.Rngs(0))
    layer.set_attributes(use_running_average=True, raise_if_not_found=False)
    x = clip(1, 5, 4, 4, 8)
    changed = np.abs(layer(x) - layer(x.at[:, 0].add(1.0))).max((0, 2, 3))
    assert np.all(changed[:2] > 1e-4) and np.all(changed[2:] < 1e-5)


def test_c2d_sees_no_order_of_the_pairs_of_frames_and_i3d_does():
    x = clip(1, 8, 32, 32, 3)
    shuffled = x[:, np.array([4, 5, 0, 1, 6, 7, 2, 3])]
    for name, sees in (("c2d_resnet18", False), ("i3d_resnet18", True)):
        model = sf.create_model(name, depths=(1, 1), **NARROW)
        difference = np.abs(run(model, x) - run(model, shuffled)).max()
        assert (difference > 1e-4) == sees


def test_c2d_of_a_still_clip_is_the_image_network():
    options = dict(depths=(1, 1), **NARROW)
    image = sf.create_model("resnet18", **options)
    video = sf.create_model("c2d_resnet18", stem_pool_padding=1, head_pool_size=None, **options)
    sf.inflate(image, video)
    x = clip(2, 32, 32, 3)
    still = jnp.broadcast_to(x[:, None], (2, 4, 32, 32, 3))
    np.testing.assert_allclose(run(video, still), run(image, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["i3d_resnet18_bat3d", "ffc_i3d_resnet18_srl_fft"])
def test_no_activations_are_gathered_on_a_data_parallel_mesh(name, mesh):
    size = (4, 32, 32)
    ffc = dict(ratio=0.5) if name.startswith("ffc") else {}
    shallow = dict(depths=(1, 1), blocks_at={1: (0,)}, width=16, num_classes=5, input_size=size)
    model = sf.create_model(name, **shallow, **ffc)
    model.set_attributes(deterministic=True)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x).sum()

    x = split(mesh, jnp.ones((8, *size, 3)))
    params, rest = copied(mesh, params), copied(mesh, rest)
    assert count(jax.value_and_grad(loss), params, rest, x) == 0


@pytest.mark.parametrize(
    "name",
    ["i3d_resnet18_bat3d", "ffc_i3d_resnet50_srl_fft", "c2d_resnet18_srl_lo"],
)
def test_a_state_dict_goes_out_and_comes_back(name):
    wide = dict(width=32, num_classes=5)
    model = sf.create_model(name, rngs=nnx.Rngs(1), depths=(1, 1, 2, 1), **wide)
    other = sf.create_model(name, rngs=nnx.Rngs(2), depths=(1, 1, 2, 1), **wide)
    state = sf.save_torch(model)
    assert state["fc.weight"].shape == (5, model.num_features, 1, 1, 1)
    assert state["conv1.weight"].shape[2:] == (5 if "i3d" in name else 1, 7, 7)
    sf.load_torch(other, state)
    again = sf.save_torch(other)
    for entry, value in state.items():
        np.testing.assert_allclose(again[entry], value, atol=1e-6)


@pytest.mark.parametrize("family", ["torchvision", "PyTorchVideo", "SlowFast"])
def test_each_family_of_names_is_told_from_the_others(family):
    options = dict(depths=(1, 2, 2, 1), **NARROW)
    model = sf.create_model("c2d_resnet50_nl", rngs=nnx.Rngs(1), **options)
    other = sf.create_model("c2d_resnet50_nl", rngs=nnx.Rngs(2), **options)
    state = sf.save_torch(model, family=family)
    assert sf.load_torch(other, state).family == family
    x = clip(1, 2, 32, 32, 3)
    np.testing.assert_array_equal(run(model, x), run(other, x))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("c2d_resnet50_bat4d", {}, ValueError, "closest: .*c2d_resnet50_bat3d"),
        ("c2d_resnet18", dict(temporal=True), TypeError, "no option 'temporal'"),
        ("c2d_resnet18_srl_lo", dict(input_size=(224, 224)), ValueError, "expected T, H, W"),
        ("c2d_resnet18_bat", dict(input_size=(1, 224, 224)), ValueError, "too small"),
        ("c2d_resnet18_bat", dict(block_options=dict(temporal_grit=1)), TypeError, "temporal_grid"),
    ],
)
def test_impossible_options_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        sf.create_model(name, **(dict(width=8) | options))


def test_every_second_block_shifts_where_a_stage_has_many():
    shifts = lambda name: [
        [bool(block.temporal_shift) for block in stage]
        for stage in sf.abstract_model(name, width=8).stages
    ]
    assert shifts("tsm_resnet50") == [[True] * n for n in (3, 4, 6, 3)]
    assert shifts("tsm_resnet101") == [[i % 2 == 0 for i in range(n)] for n in (3, 4, 23, 3)]
    with pytest.raises(TypeError, match="no option 'temporal_shift'"):
        sf.abstract_model("resnet18", temporal_shift=8)


def test_segments_are_classified_one_by_one_and_their_logits_averaged():
    options = dict(depths=(1, 1), **NARROW)
    frames = sf.create_model("tsn_resnet50", **options)
    image = sf.create_model("resnet50", **options)
    state = {
        name: v[:, :, 0] if np.ndim(v) == 5 else v for name, v in sf.save_torch(frames).items()
    }
    state["fc.weight"] = state["fc.weight"].reshape(5, -1)
    sf.load_torch(image, state)
    x = clip(1, 3, 32, 32, 3)
    wanted = np.mean([run(image, x[:, t]) for t in range(3)], 0)
    np.testing.assert_allclose(run(frames, x), wanted, rtol=1e-4, atol=1e-5)
