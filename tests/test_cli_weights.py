"""The option or argument that names weights, and what ``convert`` makes of them."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

import spectral_flax as sf
from spectral_flax.checkpoints.safetensors import write_safetensors
from spectral_flax.checkpoints.weights import Weights, variables
from spectral_flax.cli import main
from spectral_flax.models.record import ModelRecord

OPTIONS = dict(width=8, depths=(1, 1), num_classes=4)
GIVEN = [part for name, value in OPTIONS.items() for part in ("-O", f"{name}={value}")]


@pytest.fixture(scope="module")
def model():
    return sf.create_model("resnet18", **OPTIONS)


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    sf.save(model, path, name="resnet18", options=OPTIONS)
    return path


def fails(capsys, *arguments) -> str:
    """Run a command that must fail; return the one message it prints."""
    assert main([str(argument) for argument in arguments]) == 2
    out, told = capsys.readouterr()
    assert told.startswith("error: ") and told.count("error: ") == 1 and not out
    return told


def commands(weights, folder):
    """Return the commands that read weights, with all else they need."""
    Image.new("RGB", (9, 9)).save(folder / "image.png")
    Image.new("L", (9, 9), 255).save(folder / "mask.png")
    image, mask = folder / "image.png", folder / "mask.png"
    return {
        "convert": ["convert", weights, folder / "out.safetensors", "--model", "resnet18"],
        "predict": ["predict", image, "--weights", weights, "--model", "resnet18"],
        "inpaint": ["inpaint", image, mask, "-o", folder / "o.png", "--weights", weights],
    }


def make(kind, path):
    match kind:
        case "directory":
            path.mkdir()
        case "empty":
            path.touch()
        case "pipe":
            os.mkfifo(path)
        case "text":
            path.write_text("<html>")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "pipe", "text"])
@pytest.mark.parametrize("command", ["convert", "predict", "inpaint"])
def test_weights_that_can_not_be_read_are_one_line(command, kind, suffix, tmp_path, capsys):
    path = tmp_path / f"x.{suffix}"
    make(kind, path)
    told = fails(capsys, *commands(path, tmp_path)[command])
    assert str(path) in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("command", ["convert", "predict", "inpaint"])
def test_an_empty_name_of_weights_is_not_the_folder_here(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "source=''; expected a path" in fails(capsys, *commands("", tmp_path)[command])


def test_an_unset_variable_as_the_target_writes_nothing(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    assert "path=''; expected a path" in fails(capsys, "convert", weights, "")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("target", ["out", "out.pth", "out.orbax", "out.safetensors"])
def test_convert_overwrites_only_if_asked(target, weights, tmp_path, capsys):
    command = ["convert", str(weights), str(tmp_path / target)]
    assert main(command) == 0
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    capsys.readouterr()
    told = fails(capsys, *command)
    assert target in told and "--overwrite" in told
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before
    assert main([*command, "--overwrite"]) == 0


def test_convert_checks_its_target_before_the_weights_are_read(tmp_path, capsys):
    (tmp_path / "out.pth").write_text("mine")
    told = fails(capsys, "convert", tmp_path / "absent.pth", tmp_path / "out.pth")
    assert "out.pth' exists" in told


def test_convert_takes_one_of_several_sets_of_weights(model, tmp_path, capsys):
    several = {f"{part}.{n}": a for part in ("G", "D") for n, a in sf.save_torch(model).items()}
    write_safetensors(tmp_path / "x.safetensors", Weights(several, "torch"))
    command = ["convert", tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    command += ["--model", "resnet18", *GIVEN]
    assert "choose one by entry=: D, G" in fails(capsys, *command)
    assert main([*map(str, command), "--entry", "G"]) == 0
    found = variables(sf.load(tmp_path / "y.safetensors"))
    for name, array in variables(model).items():
        np.testing.assert_array_equal(found[name], array)


def test_convert_takes_numbers_that_are_not_finite_only_if_asked(model, tmp_path, capsys):
    tensors = {n: np.full(a.shape, np.nan, np.float32) for n, a in variables(model).items()}
    write_safetensors(
        tmp_path / "x.safetensors",
        Weights(tensors, "flax", ModelRecord(model="resnet18", options=OPTIONS)),
    )
    command = ["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "y.pth")]
    assert "holds NaN or infinity" in fails(capsys, *command)
    assert main([*command, "--allow-non-finite"]) == 0


@pytest.mark.parametrize("command", ["predict", "inpaint"])
def test_commands_take_numbers_that_are_not_finite_only_if_asked(command, tmp_path, capsys):
    name, options = {
        "predict": ("resnet18", OPTIONS),
        "inpaint": ("lama", dict(width=8, blocks=1)),
    }[command]
    tensors = variables(sf.create_model(name, **options))
    variance = next(n for n in tensors if n.endswith("var"))  # the outputs stay finite
    tensors[variance] = np.full(tensors[variance].shape, np.inf, np.float32)
    write_safetensors(
        tmp_path / "x.safetensors",
        Weights(tensors, "flax", ModelRecord(model=name, options=options)),
    )
    words = list(map(str, commands(tmp_path / "x.safetensors", tmp_path)[command]))
    assert "holds NaN or infinity" in fails(capsys, *words)
    assert main([*words, "--allow-non-finite"]) == 0
