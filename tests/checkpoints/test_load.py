import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.layers import FFC, FourierUnit, SpectralTransform
from spectral_flax.layers.blocks import block


def small(name="ffc_resnet50", seed=0, **options):
    options = dict(depths=(1, 1, 1, 1), width=16, num_classes=5) | options
    if name.startswith("ffc"):
        options = dict(ratio=0.5) | options
    return sf.create_model(name, rngs=nnx.Rngs(seed), **options)


def arrays(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


MODELS = [
    ("resnet18", {}),
    ("resnet50", {}),
    ("resnext50_32x4d", dict(width=32)),
    ("ffc_resnet18", {}),
    ("ffc_resnet50", dict(ratio=0.5, lfu=False)),
    ("ffc_resnet50", dict(se=True)),
    ("ffc_resnet50", dict(local_to_global=True, global_to_local=False)),
    ("ffc_resnext50_32x4d", dict(width=64, ratio=0.5)),
]


@pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
def test_a_saved_state_dict_loads_into_the_same_numbers(name, options):
    model, other = small(name, **options), small(name, seed=1, **options)
    report = sf.load_torch(other, sf.save_torch(model))
    for ours, theirs in zip(arrays(model), arrays(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert report.loaded and not report.ignored and not report.skipped


def test_prefixes_of_data_parallel_models_are_understood():
    model, other = small("resnet18"), small("resnet18", seed=1)
    sf.load_torch(other, {f"module.{k}": v for k, v in sf.save_torch(model).items()})
    for ours, theirs in zip(arrays(model), arrays(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_all_faults_are_reported_at_once_and_nothing_changes():
    model = small()
    state = sf.save_torch(small(seed=1))
    before = arrays(model)
    del state["layer2.0.conv2.ffc.convl2g.weight"], state["bn1.running_mean"]
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["extra.weight"] = np.zeros((2, 3))
    with pytest.raises(sf.CheckpointError) as error:
        sf.load_torch(model, state)
    for line in (
        "missing: layer2.0.conv2.ffc.convl2g.weight [16, 16, 3, 3]",
        "missing: bn1.running_mean [16]",
        "unexpected: extra.weight [2, 3]",
        "shape: conv1.weight is [16, 1, 7, 7]; the model needs [16, 3, 7, 7]",
    ):
        assert line in str(error.value)
    for ours, theirs in zip(before, arrays(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_head_of_another_size_is_left_alone_only_when_asked():
    model, state = small(num_classes=3), sf.save_torch(small(seed=1))
    with pytest.raises(
        sf.CheckpointError, match=r"fc.weight is \[5, 512\]; the model needs \[3, 512\]"
    ):
        sf.load_torch(model, state)
    head = np.asarray(model.head.kernel[...])
    report = sf.load_torch(model, state, skip=("head",))
    np.testing.assert_array_equal(model.head.kernel[...], head)
    assert report.skipped == ("head.bias", "head.kernel")
    np.testing.assert_array_equal(
        model.stem.conv.kernel[...][0, 0, 0], state["conv1.weight"][:, 0, 0, 0]
    )
    with pytest.raises(ValueError, match="skip='heads' names no part of ResNet"):
        sf.load_torch(model, state, skip=("heads",))


def test_sixteen_bit_files_fill_float32_parameters():
    model, state = small("resnet18"), sf.save_torch(small("resnet18", seed=1))
    sf.load_torch(model, {k: np.asarray(v, np.float16) for k, v in state.items()})
    assert model.head.kernel.dtype == np.float32
    np.testing.assert_allclose(model.head.kernel[...], state["fc.weight"].T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        lambda r: FourierUnit(8, 16, groups=2, rngs=r),
        lambda r: SpectralTransform(16, 16, rngs=r),
        lambda r: FFC(32, 32, groups=2, rngs=r),
    ],
)
def test_single_layers_round_trip(layer):
    one, two = layer(nnx.Rngs(0)), layer(nnx.Rngs(1))
    sf.load_torch(two, sf.save_torch(one))
    for ours, theirs in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("family", ["SRL", "BAT video", "timm"])
def test_concatenation_scores_pairs_by_a_flat_convolution_in_videos_too(rank, family):
    make = lambda seed: block("nl", 8, rank=rank, mode="concatenation", rngs=nnx.Rngs(seed))
    one, two = make(0), make(1)
    state = sf.save_torch(one, family=family)
    assert state["concat_project.0.weight"].shape == (1, 8, 1, 1)
    np.testing.assert_array_equal(
        state["concat_project.0.weight"].ravel(), np.ravel(one.score.kernel[...])
    )
    sf.load_torch(two, state)
    for ours, theirs in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_module_without_published_names_says_so():
    with pytest.raises(ValueError, match=r"no table of PyTorch names for Linear; known:.*ResNet"):
        sf.load_torch(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), {})
