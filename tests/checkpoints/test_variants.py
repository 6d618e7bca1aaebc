"""Published files of one name that differ load as they are."""

import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.variants import called_for
from spectral_flax.checkpoints.weights import Weights

SMALL = dict(width=16, num_classes=3, depths=(1, 1), ratio=0)
POSE = dict(encoder_width=8, decoder_width=8, depths=(1, 1))
# A model, options that the user gives, and those that the file tells.
VARIANTS = {
    "ffc_resnet18": (SMALL, dict(project_first=True)),
    "ffc_resnet34": (SMALL, dict(project_first=True)),
    "pose_resnet18": (POSE, dict(deconvolution_kernels=(3, 3, 3))),
    "pose_resnet18_srl_fft": (POSE, dict(deconvolution_kernels=(4, 2, 3))),
}


def filled(model):
    """Give an abstract model numbers."""
    rng = np.random.default_rng(0)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    fill = lambda a: rng.uniform(0.5, 1, a.shape).astype(a.dtype)
    nnx.update(model, jax.tree.map(fill, state))
    return model


def published(name, **options) -> dict:
    """Return a state dict, under the names of FFC's code where it is one of its networks."""
    family = "FFC" if name.startswith("ffc") else None
    return sf.save_torch(filled(sf.abstract_model(name, **options)), family=family)


def parameters(model) -> dict:
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {path: np.asarray(variable[...]) for path, variable in state}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_file_tells_its_variant(name, tmp_path):
    given, told = VARIANTS[name]
    state = published(name, **given, **told)
    write_torch(tmp_path / "weights.pth", {f"module.{n}": a for n, a in state.items()})
    loaded = sf.create_model(name, pretrained=tmp_path / "weights.pth", **given)
    wanted = filled(sf.abstract_model(name, **given, **told))
    for path, array in parameters(wanted).items():
        np.testing.assert_array_equal(parameters(loaded)[path], array, err_msg=str(path))
    assert called_for(name, Weights(state, "torch")) == told


@pytest.mark.parametrize("name", VARIANTS)
def test_an_option_that_is_given_outweighs_the_file(name, tmp_path):
    given, told = VARIANTS[name]
    write_torch(tmp_path / "weights.pth", published(name, **given, **told))
    others = dict(project_first=False) if name.startswith("ffc") else dict(deconvolution_kernels=4)
    ((option, value),) = told.items()
    with pytest.raises(sf.CheckpointError) as error:
        sf.create_model(name, pretrained=tmp_path / "weights.pth", **given, **others)
    assert f"create the model with {option}={value!r}" in str(error.value)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_without_a_variant_tells_nothing(name):
    given, _ = VARIANTS[name]
    assert called_for(name, Weights(published(name, **given), "torch")) == {}


def test_the_published_widest_network_has_more_blocks():
    name = "ffc_resnext101_32x8d"
    entry = "layer3.{}.conv1.ffc.convl2l.weight".format
    state = {entry(block): np.zeros((1, 1, 1, 1)) for block in range(32)}
    assert called_for(name, Weights(state, "torch")) == dict(depths=(3, 4, 32, 3))
    del state[entry(31)]
    assert called_for(name, Weights(state, "torch")) == {}


def test_a_first_projection_is_published_under_the_names_of_two_paths():
    state = published("ffc_resnet18", **SMALL, project_first=True)
    found = {n: a.shape for n, a in state.items() if n.startswith("layer1.0.downsample.")}
    vector = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (16,))
    norm = {f"bn_l.{leaf}": shape for leaf, shape in vector.items()}
    wanted = {"ffc.convl2l.weight": (16, 16, 1, 1), "bn_l.num_batches_tracked": (), **norm}
    assert found == {f"layer1.0.downsample.{n}": shape for n, shape in wanted.items()}


def test_gates_of_non_local_networks_have_their_published_names():
    options = SMALL | dict(se=True, blocks_at={2: (0,)})
    del options["ratio"]
    model, other = (sf.abstract_model("resnet50_nl", **options) for _ in range(2))
    state = sf.save_torch(filled(model), family="NLNet")
    gate = {n: a.shape for n, a in state.items() if n.startswith("layer1.0.se")}
    assert gate == {
        "layer1.0.se_block.excitation.0.weight": (4, 64),
        "layer1.0.se_block.excitation.0.bias": (4,),
        "layer1.0.se_block.excitation.2.weight": (64, 4),
        "layer1.0.se_block.excitation.2.bias": (64,),
    }
    assert sf.load_torch(filled(other), state).family == "NLNet"
    for ours, theirs in zip(*map(dict.values, map(parameters, (model, other))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
