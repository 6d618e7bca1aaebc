# SPDX-License-Identifier: Apache-2.0
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spectral_flax.checkpoints.store import load, load_weights, read_weights, save
from spectral_flax.checkpoints.weights import Weights, assign, variables
from spectral_flax.models.registry import create_model

OPTIONS = dict(width=8, depths=(1, 1), num_classes=5)


@pytest.fixture(scope="module")
def model() -> nnx.Module:
    return create_model("resnet18", rngs=nnx.Rngs(3), **OPTIONS)


def assert_same(one: nnx.Module, other: nnx.Module) -> None:
    for name, array in variables(one).items():
        np.testing.assert_array_equal(variables(other)[name], array, err_msg=name)


@pytest.mark.parametrize("path", ["model.safetensors", "model.orbax", "folder"])
def test_load_inverts_save(path, model, tmp_path):
    save(model, tmp_path / path, name="resnet18", options=OPTIONS)
    assert_same(model, load(tmp_path / path))


@pytest.mark.parametrize("path", ["model.pth", "model.pth.tar", "model.ckpt"])
def test_files_of_pytorch_load_by_the_name_of_the_model(path, model, tmp_path):
    save(model, tmp_path / path)
    assert read_weights(tmp_path / path).names == "torch"
    assert_same(model, load(tmp_path / path, "resnet18", **OPTIONS))
    with pytest.raises(ValueError, match="does not say which model it holds"):
        load(tmp_path / path)


def test_options_given_override_those_of_the_file(model, tmp_path):
    save(model, tmp_path / "x.safetensors", name="resnet18", options=OPTIONS)
    loaded = load(tmp_path / "x.safetensors", param_dtype=jnp.bfloat16)
    assert variables(loaded)["head.kernel"].dtype == jnp.bfloat16


def test_other_suffixes_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"suffix '\.h5'; expected \.safetensors"):
        save(model, tmp_path / "x.h5")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_weights(tmp_path / "absent.pth")


def test_assign_is_strict_and_changes_nothing_on_failure(model):
    before = {name: np.asarray(array) for name, array in variables(model).items()}
    tensors = dict(before, extra=np.ones(1)) | {"head.bias": np.ones(7)}
    del tensors["stem.norm.scale"]
    with pytest.raises(ValueError) as caught:
        assign(model, tensors)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: stem.norm.scale",
        "  unexpected: extra",
        "  shape: head.bias is [7]; the model needs [5]",
    ]
    for name, array in variables(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_skipped_part_keeps_its_values(model):
    other = create_model("resnet18", rngs=nnx.Rngs(4), **{**OPTIONS, "num_classes": 9})
    head = np.asarray(variables(other)["head.kernel"])
    load_weights(other, Weights(variables(model)), skip=["head"])
    np.testing.assert_array_equal(variables(other)["head.kernel"], head)
    np.testing.assert_array_equal(
        variables(other)["stem.conv.kernel"], variables(model)["stem.conv.kernel"]
    )
    with pytest.raises(ValueError, match="skip='haed' names no part"):
        load_weights(other, Weights(variables(model)), skip=["haed"])


def test_generators_of_an_abstractly_built_model_can_draw():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    from spectral_flax.checkpoints.store import _start_generators

    noisy = nnx.eval_shape(lambda: Noisy(nnx.Rngs(0)))
    assign(noisy, {"linear.kernel": np.ones((2, 3)), "linear.bias": np.zeros(3)})
    _start_generators(noisy)
    assert noisy.dropout(noisy.linear(jnp.ones((4, 2)))).shape == (4, 3)


def test_objects_left_unbuilt_are_reported():
    path = pathlib.Path(__file__).parent / "torch_files" / "foreign_classes.ckpt"
    assert "omegaconf.dictconfig.DictConfig" in read_weights(path).foreign
