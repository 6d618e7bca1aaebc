# SPDX-License-Identifier: Apache-2.0
import json
import math
import pathlib
import re

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from spectral_flax.checkpoints.load import save_torch
from spectral_flax.checkpoints.public.table import list_models as list_weights
from spectral_flax.checkpoints.store import load, read_weights, save
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.weights import variables
from spectral_flax.cli import COMMANDS, main
from spectral_flax.models.registry import abstract_model, create_model, list_models

OPTIONS = dict(width=8, depths=(1, 1), num_classes=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save(create_model("resnet18", **OPTIONS), path, name="resnet18", options=OPTIONS)
    return path


@pytest.fixture
def photograph(tmp_path) -> str:
    Image.fromarray(PIXELS).save(tmp_path / "photograph.jpg")
    return str(tmp_path / "photograph.jpg")


def fails(capsys, *arguments) -> str:
    """Run a command that must fail; return what it says."""
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    return told


NAMES = [
    "list",
    "show",
    "profile",
    "compare",
    "convert",
    "predict",
    "inpaint",
    "visualize",
    "export",
    "train",
]
NAMES += ["evaluate"]


@pytest.mark.parametrize("command", [[], *([name] for name in NAMES)])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert f"usage: {' '.join(['spectral-flax', *command])} " in capsys.readouterr().out


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ") and line[4] != " "]
    assert listed == NAMES and len(COMMANDS) == len(NAMES) - 1  # two are of one module


def test_list_prints_the_names_that_match(capsys):
    assert main(["list", "ffc_resnet*"]) == 0
    assert capsys.readouterr().out.split() == list_models("ffc_resnet*")


def test_list_shows_families_and_blocks_at_first_and_names_by_filter(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "[ffc_]resnet50[_BLOCK]" in shown and "bat3d" in shown and "lama_big" in shown
    assert len(shown.splitlines()) < 45
    assert main(["list", "--block", "bat3d", "--published"]) == 0
    assert capsys.readouterr().out == "c2d_resnet50_bat3d\n"
    told = fails(capsys, "list", "--family", "vgg")
    assert "family='vgg'; expected one of 'artnet', 'c2d'" in told
    assert "and the filters" in fails(capsys, "list", "lama*", "--task", "pose")


def test_list_prints_public_weights_whole_so_that_they_can_be_copied(capsys):
    assert main(["list", "--pretrained"]) == 0
    shown = capsys.readouterr().out
    assert "torchvision/resnet50.v2 *" in shown and "CC-BY-NC-4.0" in shown
    assert all(f" {name} " in shown for name in list_weights(pretrained=True))
    assert main(["list", "s3d", "--pretrained", "--long"]) == 0
    assert "s3d" in capsys.readouterr().out
    assert "no public weights match 'vgg*'" in fails(capsys, "list", "vgg*", "--pretrained")


def test_list_prints_cards_when_asked(capsys):
    assert main(["list", "resnet18", "--long"]) == 0
    assert "224x224" in capsys.readouterr().out


def test_list_explains_the_options_of_a_model(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["list", "resnet18", "--options"]) == 0
    lines = capsys.readouterr().out.splitlines()
    meaning = re.compile(r"width .* int .* 64 .* features of the first stage")
    assert any(meaning.search(line) for line in lines)
    assert any("'imagenet', 'small'" in line for line in lines)


def test_list_says_when_nothing_matches(capsys):
    assert "no model matches 'vit*'" in fails(capsys, "list", "vit*")


def test_profile_counts_a_model(capsys):
    assert main(["profile", "resnet18", "--size", "224", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["resnet18"]
    assert found["parameters"] == 11_689_512
    assert found["multiply_adds"] == pytest.approx(1.814e9, rel=1e-3)


def test_profile_takes_options_and_sizes(capsys):
    assert main(["profile", "resnet18", "--size", "64x32", "-O", "num_classes=10", "--json"]) == 0
    small = json.loads(capsys.readouterr().out)["resnet18"]
    assert small["parameters"] == 11_689_512 - 990 * 513


def test_profile_prints_layers(capsys):
    assert main(["profile", "resnet18", "--size", "32", "--layers", "1"]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("stem", "stage4", "head", "total", "11.690"))


def test_profile_tells_what_devices_that_share_an_image_have_and_get(capsys):
    small = ["lama", "-O", "blocks=1", "-O", "width=8", "--size", "128"]
    assert main(["profile", *small, "--devices", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["lama"]
    model = abstract_model("lama", blocks=1, width=8)
    weights = sum(4 * math.prod(a.shape) for a in jax.tree.leaves(nnx.state(model)))
    given, result = (128 * 128 * channels // 8 * 4 for channels in (4, 3))
    assert weights + given <= found["arguments"] < 1.05 * (weights + given)
    assert result <= found["result"] < 1.1 * result
    assert found["temporary"] < 128 * 128 * 8 * 4  # less than one whole map
    assert "all-gather" not in found["moved"]
    assert found["moved"]["all-to-all"]["count"] == 4  # two pairs of transforms


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["profile"], "give the names of models"),
        (["profile", "resnet18", "--devices", "0"], "--devices 0 is not a positive number"),
        (["profile", "resnet18", "--devices", "99"], "99 devices can not be simulated"),
        (["profile", "resnet18", "--devices", "8", "--size", "4"], "expected 1 to 1, the rows of"),
        (["profile", "resnet18", "--devices", "8", "--size", "96"], "1 to 3, the rows of the maps"),
        (["profile", "--table", "pose", "--devices", "8"], "without --table"),
        (["profile", "resnet50", "--table", "pose"], "give the names of models"),
        (["profile", "resnet5"], "no model 'resnet5'; closest: resnet50"),
        (["profile", "ffc_resnet18", "-O", "ratoi=1"], "has no option 'ratoi'; closest: ratio"),
        (["profile", "resnet18", "--frames", "8"], "is for video models"),
        (["profile", "resnet18", "--frames", "0"], "not a positive number"),
    ],
)
def test_wrong_requests_for_a_profile_are_explained(arguments, told, capsys):
    assert told in fails(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments", [["--size", "0"], ["--size", "axb"], ["--size", "1x2x3"], ["-O", "ratio"]]
)
def test_malformed_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["profile", "resnet18", *arguments])
    assert repr(arguments[1]) in capsys.readouterr().err


def test_published_tables_stand_beside_our_counts(capsys, monkeypatch):
    from spectral_flax.analysis import published

    convention, rows = published.TABLES["imagenet"]
    rows = (rows[0], published.Row("Other", "", (1, 8, 8, 3), "40.8", note="of its own paper"))
    monkeypatch.setitem(published.TABLES, "imagenet", (convention, rows))
    assert main(["profile", "--table", "imagenet"]) == 0
    out = capsys.readouterr().out
    assert "4.089" in out and "-0.3 %" in out and "Other: of its own paper" in out
    assert main(["profile", "--table", "imagenet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["published_gflops"] == 4.1 and rows[1]["gflops"] is None


@pytest.mark.parametrize("target", ["model.pth", "model.orbax", "folder"])
def test_convert_there_and_back_changes_nothing(target, weights, tmp_path, capsys):
    there, back = tmp_path / target, tmp_path / "back.safetensors"
    assert main(["convert", str(weights), str(there)]) == 0
    assert "resnet18, " in capsys.readouterr().out
    assert main(["convert", str(there), str(back)]) == 0
    before, after = (variables(load(path)) for path in (weights, back))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_convert_explains_what_is_missing(weights, tmp_path, capsys):
    write_torch(tmp_path / "x.pth", save_torch(load(weights)))
    told = fails(capsys, "convert", tmp_path / "x.pth", tmp_path / "y.safetensors")
    assert "does not say which model it holds" in told
    told = fails(capsys, "convert", tmp_path / "x.pth", tmp_path / "y", "--model", "resnet18")
    assert "missing: layer1.1.conv1.weight" in told and not (tmp_path / "y").exists()
    assert len(told.splitlines()) == 15 and "shape: 27 more" in told.splitlines()[-1]
    assert "absent.pth" in fails(capsys, "convert", tmp_path / "absent.pth", tmp_path / "z")


def test_predict_prints_the_best_classes(weights, photograph, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("tench\ncrane\nzebra\nräv\n")
    command = ["predict", photograph, "--weights", str(weights)]
    assert main([*command, "--labels", str(tmp_path / "labels.txt"), "--json"]) == 0
    (best,) = json.loads(capsys.readouterr().out).values()
    assert {found["label"] for found in best} == {"tench", "crane", "zebra", "räv"}
    chances = [found["probability"] for found in best]
    assert chances == sorted(chances, reverse=True) and sum(chances) == pytest.approx(1)
    assert main([*command, "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("class ") == 2 and "%" in out


def test_predict_reads_the_good_images_and_names_the_bad(weights, photograph, tmp_path, capsys):
    bad = tmp_path / "notes.jpg"
    bad.write_text("not an image")
    command = ["predict", str(bad), photograph, str(tmp_path / "absent.jpg")]
    assert main([*command, "--weights", str(weights), "--json"]) == 1
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == [photograph]
    assert "notes.jpg' can not be read as an image" in err and "absent.jpg" in err


def test_predict_compares_labels_with_classes(weights, photograph, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    told = fails(capsys, "predict", photograph, "--weights", weights, "--labels", labels)
    assert "labels.txt names 3 classes; resnet18 has 4" in told


def test_read_weights_of_a_converted_file_are_under_our_names(weights):
    assert read_weights(weights).names == "flax"


def test_inpaint_fills_the_hole_and_nothing_else(tmp_path, capsys):
    options = dict(width=8, blocks=1)
    save(create_model("lama", **options), tmp_path / "l.safetensors", name="lama", options=options)
    image = np.random.default_rng(0).integers(0, 255, (13, 17, 3), dtype=np.uint8)
    hole = np.zeros((13, 17), np.uint8)
    hole[3:7, 4:9] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    files = [str(tmp_path / name) for name in ("image.png", "mask.png")]
    weights = ["--weights", str(tmp_path / "l.safetensors"), "-o", str(tmp_path / "out.png")]
    assert main(["inpaint", *files, *weights]) == 0
    filled = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(filled[hole == 0], image[hole == 0])
    assert (filled[hole > 0] != image[hole > 0]).any()
    assert "whole: 13 x 17 pixels, about" in capsys.readouterr().err
    assert "none.png" in fails(capsys, "inpaint", files[0], tmp_path / "none.png", *weights)
    again = [*files, *weights, "--overwrite", "--max-memory", "1K"]
    assert "13 x 17 pixels can not be inpainted" in fails(capsys, "inpaint", *again)


@pytest.mark.parametrize("option", [["--max-memory", "much"], ["--mode", "tiles"]])
def test_inpaint_refuses_options_that_mean_nothing(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["inpaint", "image.png", "mask.png", "-o", "out.png", "--weights", "w", *option])
    assert repr(option[1]) in capsys.readouterr().err


POSE = dict(depths=(1, 1, 1, 1), encoder_width=8, decoder_width=8, input_size=(64, 48))


@pytest.fixture(scope="module")
def pose_weights(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("weights") / "pose.safetensors"
    save(create_model("pose_resnet18", **POSE), path, name="pose_resnet18", options=POSE)
    return path


def test_predict_draws_the_poses_of_the_people_in_boxes(pose_weights, photograph, tmp_path, capsys):
    command = ["predict", photograph, "--weights", str(pose_weights)]
    out = tmp_path / "drawn.png"
    assert main([*command, "-o", str(out), "--box", "1,2,20,30", "--box", "5,0,9,9.5"]) == 0
    assert Image.open(out).size == (60, 40)
    assert capsys.readouterr().out.count("of 17 joints") == 2
    assert main([*command, "--json"]) == 0  # the whole image is one box
    assert np.shape(json.loads(capsys.readouterr().out)[photograph]) == (1, 17, 3)


def test_predict_writes_the_poses_of_several_images_to_a_folder(
    pose_weights, photograph, tmp_path, capsys
):
    bad = tmp_path / "notes.jpg"
    bad.write_text("not an image")
    out = tmp_path / "out"
    assert main(["predict", photograph, str(bad), "--weights", str(pose_weights), "-o", str(out)])
    assert [path.name for path in out.iterdir()] == ["photograph.png"]
    assert "notes.jpg' can not be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs -o OUT"),
        (["--json", "--labels", "l.txt"], "joints, not classes"),
        (["another.jpg", "--json", "--box", "0,0,4,4"], "2 are given"),
        (["-o", "drawn"], "unknown file extension"),
    ],
)
def test_wrong_requests_for_poses_are_explained(
    arguments, told, pose_weights, photograph, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.txt").write_text("a\nb")
    assert told in fails(capsys, "predict", photograph, *arguments, "--weights", pose_weights)


def test_boxes_are_for_pose_models_and_have_four_numbers(weights, photograph, capsys):
    box = ["--box", "0,0,4,4"]
    told = fails(capsys, "predict", photograph, "--weights", weights, *box)
    assert "--box is for pose models" in told
    with pytest.raises(SystemExit, match="2"):
        main(["predict", photograph, "--weights", str(weights), "--box", "0,0,4,-1"])
    assert "not a box X,Y,W,H" in capsys.readouterr().err


def test_a_generator_is_no_pose_model(photograph, tmp_path, capsys):
    path = tmp_path / "lama.pth"
    save(create_model("lama", width=8, blocks=1), path)
    arguments = ["--weights", path, "--model", "pose_resnet18", "-O", "depths=(1,1,1,1)", "--json"]
    assert "does not fit this PoseResNet" in fails(capsys, "predict", photograph, *arguments)
