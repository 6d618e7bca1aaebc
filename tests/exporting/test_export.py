"""Exported files: what they compute and say, and what is refused before anything is written."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from exporting_networks import FAMILIES, SIZE, network
from flax import nnx

import spectral_flax as sf
from spectral_flax.cli import main
from spectral_flax.models.record import Preprocessing

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "export.md"
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> nnx.Module:
    """A small classifier that takes BGR images of 16x24, of statistics of its own."""
    model = sf.create_model("resnet18", width=8, depths=(1,), num_classes=3)
    about = Preprocessing(
        input_size=(16, 24), fit="stretch", mean=(9, 8, 7), std=(30, 20, 10), channel_order="BGR"
    )
    model.record = dataclasses.replace(
        model.record, preprocessing=about, class_names=("ant", "bee", "cat")
    )
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> pathlib.Path:
    (file,) = sf.export(model, tmp_path_factory.mktemp("files") / "classifier.stablehlo")
    assert file.size == (16, 24) and file.error < 1e-5
    return file.path


def test_a_process_without_the_library_reads_a_file(model, exported):
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
    (loader,) = [block for block in blocks if "export.deserialize" in block]
    assert "spectral_flax" not in loader
    code = (
        "import sys, pathlib\nsys.modules['spectral_flax'] = None\n"
        f"folder = pathlib.Path({str(exported.parent)!r})\n{loader}\n"
        f"images = np.array({PIXELS.tolist()}, np.uint8)\n"
        "np.save(folder / 'logits.npy', model.call(images))\n"
    )
    subprocess.run([sys.executable, "-"], input=code, text=True, check=True)
    found = np.load(exported.parent / "logits.npy")
    x = sf.prepare(list(PIXELS), model)
    expected = nnx.jit(lambda m, x: m(x))(sf.evaluation_mode(model), x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_description_says_what_a_user_needs(exported):
    about = json.loads(exported.with_name("classifier.stablehlo.json").read_text())
    (images,) = about["inputs"]
    assert images["dtype"] == "uint8" and images["shape"] == ["batch", 16, 24, 3]
    assert about["output"]["name"] == "logits" and about["format"] == "stablehlo"
    assert about["class_names"] == ["ant", "bee", "cat"] and about["task"] == "classification"
    assert about["preprocessing"]["fit"] == "stretch"


def test_another_size_is_refused_by_jax(exported):
    read = jax.export.deserialize(bytearray(exported.read_bytes()))
    with pytest.raises(ValueError, match="hape"):
        read.call(PIXELS[:, :8])


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) for n in FAMILIES])
def test_every_family_exports(name, tmp_path):
    frames = 4 if "c2d" in name else None
    path = tmp_path / "model.stablehlo"
    (file,) = sf.export(network(name), path, size=SIZE, frames=frames)
    assert file.error < 1e-5
    text = jax.export.deserialize(bytearray(path.read_bytes()))
    assert text.platforms == ("cpu", "cuda", "tpu")


def test_several_sizes_are_several_files_and_an_odd_one_is_filled_in(tmp_path):
    model = sf.create_model("lama", width=4, blocks=1, downsampling=1)
    sizes = [(13, 18), (8, 8)]
    files = sf.export(model, tmp_path / "lama.stablehlo", size=sizes, batch=1)
    assert [f.path.name for f in files] == ["lama_13x18.stablehlo", "lama_8x8.stablehlo"]
    assert [f.size for f in files] == sizes
    rng = np.random.default_rng(1)
    image, mask = (
        rng.integers(0, 256, (13, 18, 3), np.uint8),
        rng.integers(0, 2, (13, 18), np.uint8),
    )
    read = jax.export.deserialize(bytearray(files[0].path.read_bytes()))
    filled = np.rint(read.call(image[None], 7 * mask[None])[0])
    expected = sf.inpaint(model, image, mask).astype(np.float32)
    assert np.abs(filled - expected).max() <= 1  # rounded the other way
    assert (filled != expected).mean() < 0.01
    np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        (dict(format="torch"), ValueError, "format=torch; expected 'stablehlo' or 'onnx'"),
        (dict(path="m.onnx", format="stablehlo"), ValueError, "not named as a file of"),
        (dict(path="m.bin"), ValueError, "does not end in .onnx or .stablehlo"),
        (dict(path="gone/m.stablehlo"), FileNotFoundError, "there is no folder 'gone'"),
        (dict(path="there.stablehlo"), FileExistsError, "'there.stablehlo' exists"),
        (dict(batch=0), ValueError, "batch=0; expected a positive number or 'dynamic'"),
        (dict(batch="many"), ValueError, "batch=many; expected a positive number or 'dynamic'"),
        (dict(size=(8,)), ValueError, "size=.8.; expected .height, width., or several"),
        (dict(size=[]), ValueError, "expected .height, width., or several"),
        (dict(size=(8, -8)), ValueError, "expected .height, width., or several"),
        (dict(frames=4), ValueError, "frames=4; the model takes images, not clips"),
        (dict(inputs="bytes"), ValueError, "inputs=bytes; expected 'pixels' or 'prepared'"),
        (
            dict(tolerance=-1.0),
            ValueError,
            "would differ from the model by .* at most tolerance=-1",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_no_file(
    options, error, told, model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("there.stablehlo").touch()
    with pytest.raises(error, match=told):
        sf.export(model, **{"path": "m.stablehlo"} | options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.stablehlo"]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        (
            "lama",
            dict(inputs="prepared"),
            "Lama cannot be exported at size 10x12: .* multiples of 8",
        ),
        ("resnet18_srl_lo", {}, "ResNet cannot be exported at size 10x12: "),
    ],
)
def test_a_size_that_a_model_does_not_take_is_named(name, options, told, tmp_path):
    small = dict(width=8, blocks=1) if name == "lama" else dict(width=8, depths=(1, 1, 1))
    with pytest.raises(ValueError, match=told):
        model = sf.create_model(name, **small)
        sf.export(model, tmp_path / "m.stablehlo", size=(10, 12), **options)


def test_a_missing_extra_is_named_with_its_command(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ImportError, match=r'jax2onnx: pip install "spectral-flax\[onnx\]"'):
        sf.export(model, tmp_path / "m.onnx")


def test_a_model_that_tells_nothing_is_refused(tmp_path):
    with pytest.raises(TypeError, match="does not say how its input is prepared"):
        sf.export(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), tmp_path / "m.stablehlo")


def test_the_command_prints_the_error_of_each_file(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sf.save(model, "w.safetensors")
    words = ["export", "--weights", "w.safetensors", "-o", "m.stablehlo", "--batch", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(
        r"m.stablehlo: 16x24, \d\.\d MB, largest relative error \d\.\de[-+]\d+\n", out
    )
    assert main(words) == 2 and "exist" in capsys.readouterr().err
    (file,) = sf.export("w.safetensors", "m.stablehlo", batch=2, overwrite=True)
    assert file.error < 1e-5
    assert main(["export", "resnet34", *words[1:], "--overwrite"]) == 2
    assert "missing" in capsys.readouterr().err
    assert main(["export", "-o", "n.stablehlo"]) == 2
    assert "give the name of a model, or --weights" in capsys.readouterr().err
