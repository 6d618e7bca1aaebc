"""Image classifiers: published sizes and numbers, blocks by name, and what is refused."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import copied, count, split
from flax import nnx
from parity_checks import check_parity

import spectral_flax as sf
from spectral_flax.checkpoints.load import CheckpointError
from spectral_flax.layers.bilinear import BilinearAttention
from spectral_flax.layers.blocks import BLOCKS
from spectral_flax.layers.non_local import NonLocal
from spectral_flax.models.placement import published_places

NARROW = dict(width=8, num_classes=5)
full = functools.partial(pytest.param, marks=pytest.mark.full)


def parameters(name, **options) -> int:
    model = sf.abstract_model(name, **options)
    return sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("tv_resnet18", "resnet18"),
        full("tv_resnext101_32x8d", "resnext101_32x8d"),
        full("nl_resnet50", "resnet50_nl"),
        full("bat_resnet50", "resnet50_bat"),  # test_video.py has its network for videos
        ("timm_bat_resnext26ts", "bat_resnext26ts"),
        full("cgnl_net_resnet50_cgnl", "resnet50_cgnl"),
    ],
)
def test_published_models_give_the_published_numbers(case, name):
    check_parity(case, functools.partial(sf.abstract_model, name))


@pytest.mark.full
def test_a_non_local_block_of_the_compact_network_gives_the_published_numbers():
    options = dict(blocks_at={3: (4,)}, block_options=dict(use_bias=False))
    build = functools.partial(sf.abstract_model, "resnet50_nl", **options)
    check_parity("cgnl_net_resnet50_nl", build)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet50", 25_557_032),
        ("resnet50_bat", 25_557_032 + 4_677_188),
        ("resnet50_nl", 25_557_032 + 7_358_464),
        ("resnet18_bat", 11_689_512 + 128_232),
        ("resnet18_nl", 11_689_512 + 165_568),
        ("resnet50_cgnl", 27_197_480),
    ],
)
def test_parameters_are_the_published_number(name, published):
    assert parameters(name) == published


@pytest.mark.parametrize(("name", "millions"), [("resnet101_bat", 49.2), ("resnet152_bat", 64.9)])
def test_parameters_round_to_the_published_millions(name, millions):
    assert round(parameters(name) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("depths", "places"),
    [
        ((2, 2, 2, 2), {2: (1,), 3: (1,)}),
        ((3, 4, 6, 3), {2: (1, 3), 3: (1, 3, 5)}),
        ((3, 4, 23, 3), {2: (1, 3), 3: (6, 13, 20)}),
        ((3, 8, 36, 3), {2: (3, 7), 3: (11, 23, 35)}),
        ((1, 1, 1, 1), {2: (0,), 3: (0,)}),
    ],
    ids=str,
)
def test_non_local_and_bilinear_blocks_stand_where_they_were_published(depths, places):
    assert published_places("nl", depths, 2) == published_places("bat", depths, 3) == places


def test_graph_units_and_compact_blocks_stand_where_they_were_published():
    r50, r101 = (3, 4, 6, 3), (3, 4, 23, 3)
    assert published_places("glore", r50, 3) == {2: (0, 2), 3: (0, 2, 4)}
    assert published_places("glore", r50, 2) == {3: (0, 2, 4)}
    assert published_places("cgnl", r50, 2) == {3: (4,)}
    assert published_places("cgnl_rbf", r101, 2) == {3: (21,)}


def test_every_backbone_has_every_block_by_name():
    names = sf.list_models()
    assert names == sorted(names)
    for prefix in ("", "ffc_"):
        for block in set(BLOCKS) - {"bat3d"}:
            assert {f"{prefix}resnet50_{block}", f"{prefix}resnext50_32x4d_{block}"} <= set(names)


def test_a_suffix_is_the_block_option():
    shapes = lambda model: [(p, v.shape) for p, v in nnx.to_flat_state(nnx.state(model))]
    named = sf.abstract_model("resnet18_bat", **NARROW)
    assert shapes(named) == shapes(sf.abstract_model("resnet18", block="bat", **NARROW))


def test_places_that_went_through_json_are_understood():
    places = json.loads(json.dumps({2: (0,), 3: (1,)}))
    model = sf.abstract_model("resnet18_nl", blocks_at=places, **NARROW)
    assert [len(stage) for stage in model.stages] == [2, 3, 3, 2]
    assert isinstance(model.stage2[1], NonLocal) and isinstance(model.stage3[2], NonLocal)


@pytest.mark.parametrize(("name", "rate"), [("resnet34_bat", 0.0), ("resnet50_bat", 0.2)])
def test_dropout_of_bilinear_blocks_is_for_networks_deeper_than_34(name, rate):
    model = sf.abstract_model(name, **NARROW)
    assert {
        block.dropout.rate
        for stage in model.stages
        for block in stage
        if isinstance(block, BilinearAttention)
    } == {rate}


def test_blocks_of_fixed_size_are_built_for_the_map_they_stand_on():
    options = dict(input_size=(64, 96), blocks_at={1: (0,), 3: (1,)}, **NARROW)
    orthogonal = sf.abstract_model("resnet18_srl_lo", **options)
    assert orthogonal.stage1[1].pair.sizes == (16, 24)
    assert orthogonal.stage3[2].pair.sizes == (4, 6)
    relu = dict(block_options=dict(spectrum_relu=True))
    fourier = sf.abstract_model("resnet18_srl_fft", **options, **relu)
    assert fourier.stage3[2].spectrum_relu.scale.shape == (4, 4)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("resnet50_bta", {}, ValueError, "closest: .*resnet50_bat"),
        ("resnet18", dict(blok="bat"), TypeError, "closest: .*block"),
        ("resnet18_bat", dict(block="nl"), TypeError, "no option 'block'"),
        ("resnet18", dict(ratio=0.5), TypeError, "no option 'ratio'"),
        ("resnet18", dict(block="bta"), ValueError, "closest: bat"),
        ("resnet18", dict(stem="large"), ValueError, "stem='large'"),
        ("resnet18", dict(num_classes=0), ValueError, "num_classes=0"),
        ("resnet18", dict(dropout=1.0), ValueError, "dropout=1.0"),
        ("ffc_resnet18", dict(ratio=1.5), ValueError, "ratio=1.5"),
        ("resnet18", dict(block="bat3d"), ValueError, "bat3d is for video"),
        ("resnet18", dict(blocks_at={2: (0,)}), ValueError, "no block"),
        ("resnet18", dict(block_options=dict(grid=7)), ValueError, "no block"),
        ("resnet18_bat", dict(block_options=dict(grit=7)), TypeError, "closest: grid"),
        ("resnet18_bat", dict(block_options=dict(dtype=None)), TypeError, "no option 'dtype'"),
        ("resnet18_bat", dict(blocks_at={2: 1}), ValueError, "blocks_at=.2: 1."),
        ("resnet18_bat", dict(blocks_at=(1, 3)), ValueError, "residual blocks by stage"),
        ("resnet18", dict(depths=(2, 0, 2)), ValueError, "at least one block"),
        ("resnet18_bat", dict(blocks_at={2: (2,)}), ValueError, "number 2 of stage 2"),
        ("resnet18_bat", dict(input_size=(8, 224, 224)), ValueError, "expected H, W"),
        ("resnet18_nl", dict(depths=(1, 1)), ValueError, "blocks_at"),
    ],
)
def test_impossible_options_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        sf.create_model(name, **(dict(width=8) | options))


@pytest.mark.parametrize("name", ["resnet18_bat", "ffc_resnet18_nl"])
def test_no_activations_are_gathered_on_a_data_parallel_mesh(name, mesh):
    shallow = dict(depths=(1, 1), width=16, num_classes=5, input_size=(32, 32))
    shallow["blocks_at"] = {1: (0,)}
    ffc = dict(ratio=0.5) if name.startswith("ffc") else {}
    model = sf.create_model(name, **shallow, **ffc)
    model.set_attributes(deterministic=True, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x).sum()

    x = split(mesh, jnp.ones((8, 32, 32, 3)))
    params, rest = copied(mesh, params), copied(mesh, rest)
    assert count(jax.value_and_grad(loss), params, rest, x) == 0


@pytest.mark.parametrize(
    "name",
    ["resnet18_bat", "ffc_resnet26_nl", "resnet18_srl_lo"],
)
def test_a_state_dict_goes_out_and_comes_back(name, tmp_path):
    wide = dict(width=32, num_classes=5, depths=(1, 1, 2, 1))
    model = sf.create_model(name, rngs=nnx.Rngs(1), **wide)
    other = sf.create_model(name, rngs=nnx.Rngs(2), **wide)
    state = sf.save_torch(model, tmp_path / "model.pth")
    assert {f"layer{stage}" for stage in range(1, 5)} <= {n.partition(".")[0] for n in state}
    report = sf.load_torch(other, tmp_path / "model.pth")
    assert not report.skipped and len(report.loaded) + len(report.ignored) <= len(state)
    again = sf.save_torch(other)
    for entry, value in state.items():
        np.testing.assert_allclose(again[entry], value, atol=1e-6)


def test_a_network_without_a_head_loads_weights_with_one_if_asked():
    model = sf.create_model("resnet18", width=8, num_classes=None)
    state = sf.save_torch(sf.create_model("resnet18", **NARROW))
    with pytest.raises(
        CheckpointError, match=r"head of 5 classes, the model None.*skip=\('head',\)"
    ):
        sf.load_torch(model, state)
    report = sf.load_torch(model, state, skip=("head",))
    assert {"fc.weight", "fc.bias"} <= set(report.ignored) and not report.skipped
