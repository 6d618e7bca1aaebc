"""What the error says of a checkpoint of another model."""

import ast
import functools
import re

import numpy as np
import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.correspondence import torch_entries
from spectral_flax.checkpoints.diagnosis import describe, hints
from spectral_flax.checkpoints.load import CheckpointError
from spectral_flax.checkpoints.names import tables_for

SMALL = dict(width=32, num_classes=5)


@functools.cache
def small(name, options: str):
    """A model in shapes; ``options`` are given as text, since many tests have the same."""
    return sf.abstract_model(name, **(SMALL | ast.literal_eval(options)))


def shapes_of(name, family=None, **options) -> dict:
    model = small(name, repr(options))
    table = dict(tables_for(model))[family or ("FFC" if "ffc" in name else "torchvision")]
    entries = torch_entries(model, table)
    return {n: s for e in entries for n, s in zip(e.names, e.shapes, strict=True)}


QUICK = ("resnet18", "resnet26", "resnet34_bat", "resnet50_cgnl", "resnet18_srl_lo")
QUICK += ("resnet18_srl_fft", "resnet18_rcca", "resnet18_a2", "c2d_resnet50_nl")
SLOW = ("resnet101", "resnext50_32x4d", "ffc_resnext50_32x4d", "ffc_resnet50_nl")
SLOW += ("i3d_resnet18_bat3d", "ffc_i3d_resnet18_glore")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.full) for name in SLOW)]
)
def test_names_and_shapes_tell_the_model(name):
    wide = dict(width=64) if "next" in name else {}  # 32 groups of an FFC's paths
    assert describe(shapes_of(name, **wide))["name"] == name


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (("resnet50", {}), ("resnet101", {}), "looks like resnet101; this model is resnet50"),
        (("resnet50", {}), ("resnet50_bat", {}), "looks like resnet50_bat"),
        (("resnet50", {}), ("ffc_resnet50", {}), r"looks like ffc_resnet50 \(ratio 0.25, LFU\)"),
        (("c2d_resnet50", {}), ("i3d_resnet50", {}), "looks like i3d_resnet50"),
        (("resnet50", {}), ("c2d_resnet50", {}), "looks like c2d_resnet50"),
        (("ffc_resnet18", dict(lfu=False)), ("ffc_resnet18", {}), "has LFU weights; .*lfu=True"),
        (
            ("ffc_resnet18", {}),
            ("ffc_resnet18", dict(lfu=False)),
            "has no LFU weights; .*lfu=False",
        ),
        (
            ("ffc_resnet18", {}),
            ("ffc_resnet18", dict(ratio=0.5)),
            "ratio 0.5, the model 0.25; create the model with ratio=0.5",
        ),
        (("resnet50", {}), ("resnet50", dict(se=True)), "squeeze-and-excitation .*se=True"),
        (("resnet18", {}), ("resnet18", dict(width=64)), "width 64, the model 32"),
        (("resnet18", {}), ("resnet18", dict(in_features=1)), "1 input channels"),
        (("resnet18", {}), ("resnet18", dict(num_classes=7)), "7 classes, the model 5"),
        (
            ("resnet18_nl", {}),
            ("resnet18_nl", dict(blocks_at={1: (0,)})),
            r"blocks after \{1: \(0,\)\}, .*blocks_at=",
        ),
        (
            ("c2d_resnet18_bat", {}),
            ("c2d_resnet18_bat", dict(block_options=dict(groups=4))),
            r"block_options=\{'grid': 7, 'groups': 4\}",
        ),
        (("resnet18", {}), ("lama", {}), "looks like a LaMa generator"),
    ],
)
def test_the_error_names_the_difference(ours, theirs, said):
    name, options = theirs
    if name == "lama":
        model = sf.abstract_model("lama", width=8, blocks=1)
        entries = torch_entries(model, tables_for(model)[0][1])
        found = {n: s for e in entries for n, s in zip(e.names, e.shapes, strict=True)}
    else:
        found = shapes_of(name, **options)
    (line,) = hints(shapes_of(ours[0], **ours[1]), found)
    assert re.search(said, line), line


def test_the_hint_comes_first_and_every_fault_follows():
    model = sf.abstract_model("resnet18", **SMALL)
    state = sf.save_torch(sf.create_model("resnet34", **SMALL))
    with pytest.raises(CheckpointError) as caught:
        sf.load_torch(model, state)
    first, second, *rest = str(caught.value).splitlines()
    assert "does not fit this ResNet" in first
    assert second == "the file looks like resnet34; this model is resnet18"
    assert any("unexpected: layer1.2.conv1.weight" in line for line in rest)


@pytest.fixture(scope="module")
def generator() -> dict:
    return sf.save_torch(sf.create_model("lama", width=8, blocks=1))


def generator_file(state: dict, beside: bool, prefix: str) -> dict:
    """Return a LaMa generator's state, alone or with what else a training file holds."""
    others = ("discriminator.model0.0.weight", "loss_resnet_pl.impl.conv1.weight")
    extra = dict.fromkeys(others if beside else (), np.zeros((2, 2), np.float32))
    return {prefix + name: value for name, value in state.items()} | extra


@pytest.mark.parametrize(
    ("beside", "prefix"), [(False, ""), (False, "generator."), (True, "generator.")]
)
@pytest.mark.parametrize("ours", ["pose_resnet18", "unet"])
def test_a_generator_in_place_of_another_model_is_named(ours, beside, prefix, generator):
    file = generator_file(generator, beside, prefix)
    with pytest.raises(CheckpointError, match="looks like a LaMa generator; this model is a "):
        sf.load_torch(sf.abstract_model(ours), file)


def test_a_pose_network_in_place_of_a_generator_is_named():
    file = sf.save_torch(sf.create_model("pose_resnet18", depths=(1,), decoder_width=8))
    with pytest.raises(CheckpointError, match=r"looks like a pose network.* is a LaMa generator"):
        sf.load_torch(sf.abstract_model("lama", width=8, blocks=1), file)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.backbone."])
def test_a_prefix_that_all_names_share_is_understood(prefix):
    options = dict(depths=(1, 1), num_classes=5, width=8)
    state = sf.save_torch(sf.create_model("resnet18", **options))
    model = sf.create_model("resnet18", **options)
    sf.load_torch(model, {prefix + name: value for name, value in state.items()})


@pytest.mark.parametrize("mapping", [{}, {"weight": 1.0}, {"a.b": 1.0}], ids=str)
def test_names_of_nothing_known_are_called_so(mapping):
    model = sf.create_model("resnet18", depths=(1, 1), width=8, num_classes=5)
    with pytest.raises(CheckpointError, match="no model known here"):
        sf.load_torch(model, mapping)


def test_names_that_all_fit_are_not_called_unknown():
    expected = shapes_of("resnet18")
    for name in ("fc.weight", "conv1.weight"):
        assert hints(expected, expected | {name: ()}) == []
