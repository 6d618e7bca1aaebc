"""Nothing that exists is overwritten unasked, and what is written appears whole."""

import os

import numpy as np
import pytest
from flax import nnx

from spectral_flax import files
from spectral_flax.checkpoints.hub import write_folder
from spectral_flax.checkpoints.load import load_torch, save_torch
from spectral_flax.checkpoints.safetensors import write_safetensors
from spectral_flax.checkpoints.store import load, read_weights, save
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.files import local_path, new_file, new_folder
from spectral_flax.layers import FourierUnit
from spectral_flax.models.record import ModelRecord

OURS = Weights({"w": np.ones(2, np.float32)}, record=ModelRecord(model="resnet18"))
LAYER = FourierUnit(2, 2, rngs=nnx.Rngs(0))
WRITERS = {
    "x.pth": lambda path, **how: write_torch(path, OURS.tensors, **how),
    "y.pth": lambda path, **how: save_torch(LAYER, path, **how),
    "x.safetensors": lambda path, **how: write_safetensors(path, OURS, **how),
    "folder": lambda path, **how: write_folder(path, OURS, **how),
    "saved.pth": lambda path, **how: save(LAYER, path, **how),
    "saved.safetensors": lambda path, **how: save(LAYER, path, **how),
    "saved.orbax": lambda path, **how: save(LAYER, path, **how),
    "saved": lambda path, **how: save(LAYER, path, name="resnet18", **how),
    "resnet18-v1.0": lambda path, **how: save(LAYER, path, name="resnet18", **how),
}


def contents(folder) -> dict[str, bytes]:
    """Return every file below a folder, also hidden ones."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_what_exists_is_overwritten_only_if_asked(name, tmp_path):
    WRITERS[name](tmp_path / name)
    written = contents(tmp_path)
    with pytest.raises(FileExistsError, match="replaced only if asked for"):
        WRITERS[name](tmp_path / name)
    assert contents(tmp_path) == written
    WRITERS[name](tmp_path / name, overwrite=True)
    assert os.listdir(tmp_path) == [name]  # nothing of what it was written as beside it


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_file_of_another_in_a_folder_is_safe(name, tmp_path):
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, f"{tmp_path}/"):
        with pytest.raises(FileExistsError, match=name):
            save(LAYER, folder, name="resnet18")
    assert contents(tmp_path) == {name: b"mine", "notes.txt": b"mine"}


def test_other_files_of_a_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_folder(tmp_path, OURS)
    write_folder(tmp_path, OURS, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine" and len(contents(tmp_path)) == 4


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "folder", "saved.orbax"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_write_that_fails_leaves_what_was_there(name, overwrite, tmp_path, monkeypatch):
    if overwrite:
        WRITERS[name](tmp_path / name)
    before = contents(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    monkeypatch.setattr("spectral_flax.checkpoints.orbax.write_orbax", full)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[name](tmp_path / name, overwrite=overwrite)
    assert contents(tmp_path) == before


def test_a_file_does_not_take_the_place_of_a_folder_nor_a_folder_that_of_a_file(tmp_path):
    (tmp_path / "x.pth").mkdir()
    (tmp_path / "x").write_text("mine")
    for name in ("x.pth", "x"):
        with pytest.raises((ValueError, OSError), match=f"{tmp_path / name}"):
            save(LAYER, tmp_path / name, name="resnet18", overwrite=True)
    assert contents(tmp_path) == {"x": b"mine"}


def test_a_draft_takes_its_place_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.png"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), new_file(path, overwrite=True) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    with new_file(path, overwrite=True) as draft:
        draft.write_text("after")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["after"]


def test_a_link_to_nothing_is_something(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "absent")
    with pytest.raises(FileExistsError), new_file(tmp_path / "x"):
        pass
    with pytest.raises(FileExistsError), new_folder(tmp_path / "x"):
        pass


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_the_folder_that_is_missing_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/absent"):
        WRITERS[name](tmp_path / "absent" / name)


@pytest.mark.parametrize("path", ["", " ", "gs:/bucket/x", "s3:/bucket/x", "https://x/y", "a\0b"])
def test_a_path_that_is_none_is_refused_and_makes_nothing(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (lambda: save(LAYER, path, name="resnet18"), lambda: load(path)):
        with pytest.raises(ValueError, match=r"(path|source)='"):
            use()
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/x") == tmp_path / "x"
    save(LAYER, "~/x.safetensors")
    assert read_weights("~/x.safetensors").names == "flax" and os.listdir(tmp_path)


def test_a_file_of_pytorch_is_found_again_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_torch(LAYER, "~/x.pth")
    assert load_torch(LAYER, "~/x.pth").loaded


@pytest.mark.parametrize("source", [None, 3, [], b"x.pth"])
def test_what_is_no_path_is_named(source):
    for read in (read_weights, lambda source: load_torch(LAYER, source)):
        with pytest.raises(TypeError, match=r"source=.*; expected a path as text"):
            read(source)


@pytest.mark.parametrize("name", ["resnet18-v1.0", "my.model", "lama.v2", "2024.01.31", "x.pth/"])
def test_names_of_folders_may_have_dots(name, tmp_path):
    save(LAYER, f"{tmp_path}/{name}", name="resnet18")
    assert (tmp_path / name / "model.safetensors").is_file()
    assert read_weights(tmp_path / name).model == "resnet18"


@pytest.mark.parametrize("suffix", [".h5", ".PTH", ".pht", ".safetensor", ".npz", ".onnx"])
def test_suffixes_of_other_formats_and_misspelt_ones_make_no_folder(suffix, tmp_path):
    with pytest.raises(ValueError, match=rf"has the suffix '{suffix}'; expected \.safetensors"):
        save(LAYER, tmp_path / f"x{suffix}", name="resnet18")
    assert not list(tmp_path.iterdir())
