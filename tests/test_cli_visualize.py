"""``spectral-flax visualize``: a picture of each kind, and what is wrong with its input."""

import numpy as np
import pytest
from PIL import Image

import spectral_flax as sf
from spectral_flax.cli import main
from spectral_flax.inference.preparation import pixels_of, seen_box
from spectral_flax.models.record import Preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
NARROW = ["-O", "width=8", "-O", "depths=(1,1)", "--size", "32"]
BLOCK = ["-O", "blocks_at={2:(0,)}"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("a.png")
    (tmp_path / "v.mp4").touch()


@pytest.mark.parametrize(
    "words, told",
    [
        (
            ["resnet18", "-O", "depths=(1,)", "--what", "receptive-field", "--layer", "stage1"],
            ("receptive field of the centre",),
        ),
        (
            ["resnet18_srl_lo", *BLOCK, "--what", "spectrum"],
            ("gain in dB", "a row is a basis vector"),
        ),
        (
            ["ffc_resnet18", "-O", "lfu=False", "-O", "ratio=0.5", "--what", "paths"],
            ("stage1, global",),
        ),
    ],
)
def test_each_picture_says_what_is_seen(words, told, capsys):
    name, *rest = words
    command = ["visualize", "a.png", "--model", name, *NARROW, *rest]
    assert main([*command, "-o", "out.svg"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == "out.svg\n"
    with open("out.svg") as file:
        text = file.read()
    for words in (f"{name}, random weights", *told):
        assert words in text


def test_saved_weights_are_named_and_many_maps_are_chosen_from(capsys):
    options = dict(width=16, depths=(1, 1), blocks_at={1: (0,), 2: (0,)}, input_size=(64, 64))
    model = sf.create_model("resnet18_bat", **options)
    sf.save(model, "w.safetensors")
    command = ["visualize", "a.png", "--weights", "w.safetensors", "--size", "64"]
    assert main([*command, "--what", "attention", "-o", "out.svg"]) == 0
    told = capsys.readouterr().out
    assert told == "stage2.1 is shown; --block takes another of stage1.1\nout.svg\n"
    with open("out.svg") as file:
        text = file.read()
    assert "weights of w.safetensors" in text and "group 4" in text


WRONG = [
    ("resnet18 --what nothing", "invalid choice: 'nothing' (choose from"),
    ("resnet18 --what attention", "has no attention maps; networks with the blocks nl, a2"),
    ("resnet18 --what spectrum", "has no layer in the domain of a transform"),
    ("resnet18 --what paths", "has no map with local and global channels"),
    ("resnet18 --what receptive-field --layer stage9", "expected one of stem, stage1, stage2"),
    ("resnet18 --what receptive-field --at 40,0", "--at 40,0 lies outside 'a.png': expected Y in"),
    ("resnet18 --what receptive-field --at -1,5", "--at -1,5 lies outside 'a.png'"),
    ("resnet18 --what receptive-field --at 0,0", "outside what the model sees of 'a.png': rows 2"),
    ("resnet18 --what receptive-field --at 3", "'3' is not a pixel Y,X"),
    ("resnet18 --what receptive-field --frames 2", "--frames 2 is for video models"),
    ("resnet18 --what paths --at 1,1", "--at is for --what attention and receptive-field"),
    ("resnet18 --what paths -o a.jpg", "expected a name that ends in .png or .svg"),
    ("resnet18 --what paths -o a/b.png", "there is no folder 'a'"),
    ("resnet18 --what paths -o a.png", "'a.png' exists; replaced only if asked for"),
    ("resnet81 --what paths", "no model 'resnet81'; closest"),
    ("c2d_resnet18 --what receptive-field", "'a.png' is an image; c2d_resnet18 takes videos"),
]


@pytest.mark.parametrize("words, message", WRONG, ids=[words for words, _ in WRONG])
def test_what_is_wrong_is_said(words, message, capsys):
    command = ["visualize", "a.png", *NARROW, "--model", *words.split()]
    command += [] if "-o" in command else ["-o", "out.png"]
    try:
        assert main(command) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_clips_and_several_pictures_are_refused_where_one_image_is_wanted(capsys):
    command = ["visualize", "--model", "resnet18", "--what", "receptive-field", "-o", "out.png"]
    assert main([*command, "v.mp4"]) == 2
    assert "'v.mp4' is a video; resnet18 takes images" in capsys.readouterr().err
    Image.fromarray(PIXELS).save("b.png")
    assert main([*command, "--at", "1,1", "a.png", "b.png"]) == 2
    assert "--at is a pixel of one image; 2 are given" in capsys.readouterr().err
    assert main(["visualize", "a.png", "--what", "paths", "-o", "out.png"]) == 2
    assert "give --model, or --weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    "about",
    [
        Preprocessing(input_size=(24, 24), resize=30),
        Preprocessing(fit="any", mean=(104.0, 117.0, 123.0), std=(1.0,) * 3, channel_order="BGR"),
        Preprocessing(fit="any", mean=(0.5,), std=(0.5,), channel_order="grey"),
    ],
    ids=["crop", "BGR", "grey"],
)
def test_inputs_become_pixels_again(about):
    seen = pixels_of(sf.prepare(PIXELS, about), about)
    left, top, right, bottom = seen_box(60, 40, about)
    if about.fit == "crop":
        assert seen.shape == (24, 24, 3) and right - left == pytest.approx(32)
        assert np.abs(seen.mean((0, 1)) - PIXELS[4:36, 14:46].mean((0, 1))).max() < 3
    else:
        expected = Image.fromarray(PIXELS).convert("L" if about.channel_order == "grey" else "RGB")
        expected = np.asarray(expected.convert("RGB"))
        assert (left, top, right, bottom) == (0, 0, 60, 40)
        np.testing.assert_array_equal(seen, expected)
