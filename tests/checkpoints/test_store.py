# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.load import save_torch
from spectral_flax.checkpoints.orbax import write_orbax
from spectral_flax.checkpoints.parts import without_inserted
from spectral_flax.checkpoints.safetensors import write_safetensors
from spectral_flax.checkpoints.store import load, load_weights, read_weights, save
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.weights import Weights, assign, variables
from spectral_flax.models.record import ModelRecord
from spectral_flax.models.registry import create_model

OPTIONS = dict(width=8, depths=(1, 1), num_classes=5)


@pytest.fixture(scope="module")
def model() -> nnx.Module:
    return create_model("resnet18", rngs=nnx.Rngs(3), **OPTIONS)


def assert_same(one: nnx.Module, other: nnx.Module) -> None:
    for name, array in variables(one).items():
        np.testing.assert_array_equal(variables(other)[name], array, err_msg=name)


@pytest.mark.parametrize("path", ["model.safetensors", "model.orbax", "folder", "model.pth"])
def test_load_inverts_save(path, model, tmp_path):
    save(model, tmp_path / path)
    assert_same(model, load(tmp_path / path))


@pytest.mark.parametrize("path", ["model.safetensors", "model.orbax", "folder", "model.pth"])
@pytest.mark.parametrize("names", ["ours", "torch"])
def test_every_format_holds_either_names(names, path, model, tmp_path):
    save(model, tmp_path / path, names=names)
    found = read_weights(tmp_path / path)
    assert found.names == {"ours": "flax", "torch": "torch"}[names]
    assert ("layer1.0.conv1.weight" in found.tensors) is (names == "torch")
    assert_same(model, load(tmp_path / path))


def test_other_names_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="names='timm'; expected 'ours' or 'torch'"):
        save(model, tmp_path / "x.pth", names="timm")


@pytest.mark.parametrize("path", ["model.pth", "model.pth.tar", "model.ckpt"])
def test_files_of_pytorch_load_by_the_name_of_the_model(path, model, tmp_path):
    write_torch(tmp_path / path, save_torch(model))
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

    from spectral_flax.checkpoints.store import _seed_rngs

    noisy = nnx.eval_shape(lambda: Noisy(nnx.Rngs(0)))
    assign(noisy, {"linear.kernel": np.ones((2, 3)), "linear.bias": np.zeros(3)})
    _seed_rngs(noisy)
    assert noisy.dropout(noisy.linear(jnp.ones((4, 2)))).shape == (4, 3)


def test_objects_left_unbuilt_are_reported():
    path = pathlib.Path(__file__).parent / "torch_files" / "foreign_classes.ckpt"
    assert "omegaconf.dictconfig.DictConfig" in read_weights(path).foreign


def test_options_of_another_model_are_not_taken(tmp_path):
    options = OPTIONS | dict(blocks_at={1: (0,)})
    other = create_model("resnet18_nl", rngs=nnx.Rngs(5), **options)
    save(other, tmp_path / "x.safetensors", name="resnet18_nl", options=options)
    model = sf.create_model(
        "resnet18", pretrained=tmp_path / "x.safetensors", skip="inserted", **OPTIONS
    )
    found, wanted = variables(model), variables(other)
    assert len(wanted) > len(found) and any(name.startswith("stage1.1.query") for name in wanted)
    wanted = without_inserted(wanted)
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)


@pytest.mark.parametrize("rngs", [None, nnx.Rngs(1)], ids=["abstract", "drawn"])
def test_options_of_the_same_model_are_taken(rngs, model, tmp_path):
    save(model, tmp_path / "x.safetensors", name="resnet18", options=OPTIONS)
    assert_same(
        model, sf.create_model("resnet18", pretrained=tmp_path / "x.safetensors", rngs=rngs)
    )


def test_weights_of_a_part_are_found_below_their_prefix(model, caplog):
    beside = {"discriminator.w": np.ones(1)}
    tensors = {f"generator.{name}": array for name, array in variables(model).items()} | beside
    other = create_model("resnet18", rngs=nnx.Rngs(4), **OPTIONS)
    load_weights(other, Weights(tensors))
    assert_same(model, other)
    assert "entries of other modules were left: discriminator.w" in caplog.text


@pytest.mark.parametrize("entry", ["ema", "model"])
@pytest.mark.parametrize("name", ["x.safetensors", "x.orbax", "x.pth"])
def test_one_of_several_sets_of_weights_is_chosen_in_every_format(name, entry, tmp_path):
    tensors = {"ema.w": np.zeros(2), "model.w": np.ones(2)}
    writers = {".safetensors": write_safetensors, ".orbax": write_orbax}
    if name == "x.pth":
        write_torch(tmp_path / name, tensors)
    else:
        writers[pathlib.Path(name).suffix](tmp_path / name, Weights(tensors))
    found = read_weights(tmp_path / name, entry=entry).tensors
    np.testing.assert_array_equal(found["w"], tensors[f"{entry}.w"])
    with pytest.raises(ValueError, match=rf"{name}.* has no entry 'other'; .*ema\.w, model\.w"):
        read_weights(tmp_path / name, entry="other")


@pytest.mark.parametrize("way", [sf.create_model, lambda name, **how: sf.load(how["pretrained"])])
def test_weights_that_are_not_finite_are_refused_by_every_reader(way, model, tmp_path):
    tensors = {name: np.asarray(array) for name, array in variables(model).items()}
    tensors["head.bias"] = np.full(5, np.nan, np.float32)
    write_safetensors(
        tmp_path / "x.safetensors",
        Weights(tensors, "flax", ModelRecord(model="resnet18", options=OPTIONS)),
    )
    with pytest.raises(sf.CheckpointError, match=r"value: head\.bias holds NaN"):
        way("resnet18", pretrained=tmp_path / "x.safetensors")
    taken = sf.load(tmp_path / "x.safetensors", allow_non_finite=True)
    assert np.isnan(taken.head.bias[...]).all()


@pytest.mark.parametrize("option", [dict(weights="raw"), dict(entry="ema"), dict(skip="head")])
def test_options_of_loading_are_refused_where_nothing_is_loaded(option):
    with pytest.raises(ValueError, match=rf"{next(iter(option))}=.* but pretrained=None"):
        sf.create_model("resnet18", **option)


def unreadable(kind, path):
    """Make something at ``path`` that is no file of weights."""
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.touch()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "orbax", ""])
@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "pipe", "loop"])
def test_what_is_no_file_of_weights_is_an_error_in_a_line_that_names_it(kind, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    unreadable(kind, path)
    with pytest.raises((OSError, ValueError), match=str(path)) as caught:
        read_weights(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_path_that_may_be_a_repository_is_named_as_both(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a checkout may have a folder runs
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"no file or folder runs/model; the Hub needs"):
        read_weights("runs/model")


@pytest.mark.parametrize(
    "options", [{"depths": "ab"}, {"depths": 3}, {"width": {"a": 1}}, {"widht": 3}, {"width": None}]
)
def test_options_of_a_file_that_build_nothing_are_told_with_the_file(options, tmp_path):
    write_safetensors(
        tmp_path / "x.safetensors",
        Weights({"w": np.ones(1)}, "flax", ModelRecord(model="resnet18", options=options)),
    )
    with pytest.raises(
        (TypeError, ValueError), match=r"x\.safetensors tells do not build resnet18"
    ):
        load(tmp_path / "x.safetensors")
