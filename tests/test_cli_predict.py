"""``spectral-flax predict`` on folders, globs, videos and masks, with the model's own record."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

import spectral_flax as sf
from spectral_flax.cli import main
from spectral_flax.models.record import Preprocessing

SMALL = dict(width=8, depths=(1, 1), num_classes=3)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of images, with one deeper, one hidden and a text."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.png", "photos/deep/b.jpg", "photos/.hidden.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")


def saved(name, path, preprocessing, class_names=(), **options):
    model = sf.create_model(name, **options)
    about = Preprocessing(**preprocessing)
    model.record = dataclasses.replace(
        model.record, preprocessing=about, class_names=tuple(class_names)
    )
    sf.save(model, path)
    return model


@pytest.fixture
def classifier():
    size = dict(input_size=(16, 16), resize=20)
    return saved("resnet18", "w.safetensors", size, ("ant", "bee", "cat"), **SMALL)


def output(capsys, *words) -> str:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.parametrize("words", [["photos"], ["photos/*.png", "photos/**/*.jpg"]])
def test_folders_and_globs_are_searched(words, classifier, capsys):
    found = json.loads(output(capsys, "predict", *words, "--weights", "w.safetensors", "--json"))
    assert list(found) == ["photos/a.png", "photos/deep/b.jpg"]
    best = [one["label"] for one in found["photos/a.png"]]
    assert sorted(best) == ["ant", "bee", "cat"]
    (expected,) = sf.predict(classifier, ["photos/a.png"])
    assert best == [one.label for one in expected]


def test_csv_has_a_line_for_each_class(classifier, capsys):
    text = output(capsys, "predict", "photos/a.png", "--weights", "w.safetensors", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(1, abs=1e-5)


def test_size_and_scaling_can_be_changed(classifier, capsys):
    command = ["predict", "photos/a.png", "--weights", "w.safetensors", "--json"]
    plain = json.loads(output(capsys, *command))
    for change in (["--size", "24x32"], ["--mean", ".5", ".5", ".5"], ["--std", "1", "1", "1"]):
        assert json.loads(output(capsys, *command, *change)) != plain
    assert main([*command, "--mean", "0.5"]) == 2
    assert "expected a number and a positive number a channel" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["empty", "photos/*.tif"])
def test_places_without_images_are_refused(word, classifier, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["predict", word, "--weights", "w.safetensors"]) == 2
    assert word in capsys.readouterr().err


@pytest.fixture
def videos(tmp_path):
    """A model of clips, and a video that grows brighter."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "photos" / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in range(0, 240, 12):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), level, np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    size = dict(input_size=(2, 16, 16), resize=20, stride=3)
    options = dict(width=4, depths=(1, 1), num_classes=2)
    return saved("c2d_resnet18", "w.safetensors", size, ("dark", "light"), **options)


def test_a_video_is_seen_in_one_or_many_views(videos, capsys):
    command = ["predict", "photos/v.mp4", "--weights", "w.safetensors", "--json"]
    (one,) = json.loads(output(capsys, *command)).values()
    assert {best["label"] for best in one} == {"dark", "light"}
    (many,) = json.loads(output(capsys, *command, "--clips", 3, "--crops", 3)).values()
    assert many != one
    (again,) = sf.predict(videos, ["photos/v.mp4"], clips=3, crops=3)
    chances = {best["label"]: best["probability"] for best in many}
    assert chances == {best.label: pytest.approx(best.probability) for best in again}


def test_a_clip_is_the_middle_of_its_video(videos):
    frames = np.stack([np.full((48, 64, 3), 12 * i, np.uint8) for i in range(20)])
    clip = sf.prepare(frames, videos)
    seen = clip[:, 0, 0, 0] * 0.229 + 0.485
    np.testing.assert_allclose(seen * 255, [12 * 8, 12 * 11], atol=0.01)  # of 17 places the middle
    short = sf.prepare(frames[:2], videos)
    np.testing.assert_allclose((short[:, 0, 0, 0] * 0.229 + 0.485) * 255, [0, 12], atol=0.01)


def test_views_are_for_videos(classifier, capsys):
    command = ["predict", "photos/a.png", "--weights", "w.safetensors", "--clips", "2"]
    assert main(command) == 2
    assert "--clips and --crops are for videos; resnet18 takes images" in capsys.readouterr().err


@pytest.fixture
def segmenter():
    size = dict(input_size=(32, 32), fit="stretch")
    options = dict(width=4, input_size=(32, 32))
    return saved("unet_star", "w.safetensors", size, ("skin", "mole"), **options)


def test_masks_are_written_at_the_size_of_their_images(segmenter, capsys):
    command = ["predict", "photos/a.png", "--weights", "w.safetensors"]
    shares = json.loads(output(capsys, *command, "-o", "mask.png", "--json"))["photos/a.png"]
    mask = np.asarray(Image.open("mask.png"))
    assert mask.shape == (40, 60)
    np.testing.assert_array_equal(mask, sf.predict(segmenter, "photos/a.png"))
    assert shares == {
        name: pytest.approx(np.mean(mask == i))
        for i, name in enumerate(("skin", "mole"))
        if (mask == i).any()
    }
    output(capsys, *command, "-o", "seen.png", "--overlay")
    seen = np.asarray(Image.open("seen.png"))
    np.testing.assert_array_equal(seen[mask == 0], PIXELS[mask == 0])
    assert mask.all() or not mask.any() or (seen[mask > 0] != PIXELS[mask > 0]).any()


def test_an_inpainting_model_says_which_command_it_needs(capsys):
    sf.save(sf.create_model("lama", width=4, blocks=1), "lama.safetensors")
    assert main(["predict", "photos/a.png", "--weights", "lama.safetensors"]) == 2
    assert "spectral-flax inpaint IMAGE MASK" in capsys.readouterr().err
