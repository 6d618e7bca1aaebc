"""What ``predict`` and ``inpaint`` do with image files; the networks are stand-ins."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

import spectral_flax as sf
from spectral_flax.cli import inpaint, main, predict
from spectral_flax.cli.results import print_shares
from spectral_flax.inference import inpainting
from spectral_flax.inference.classification import Class

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
HOLE = np.zeros((8, 8), np.uint8)
HOLE[2:5, 1:4] = 255
FILLED = 77


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An image and a mask in the working directory."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("image.png")
    Image.fromarray(HOLE).save("mask.png")


@pytest.fixture
def reads(monkeypatch):
    """How often weights were read; the network paints all of a hole in one grey."""
    found = []
    for command in (inpaint, predict):
        monkeypatch.setattr(command, "load_model", lambda *a: found.append(a) or (None, None))

    def paint(_, image, missing, **__):
        return np.where(missing[..., None], np.uint8(FILLED), image)

    monkeypatch.setattr(inpainting, "inpaint", paint)
    return found


@functools.cache
def pose_model():
    small = dict(depths=(1, 1, 1, 1), encoder_width=8, decoder_width=8, input_size=(64, 48))
    return sf.abstract_model("pose_resnet18", **small)


@pytest.fixture
def boxes(monkeypatch, reads):
    """The boxes that the pose network, which finds every joint in the corner, was asked for."""
    found = []
    monkeypatch.setattr(predict, "load_model", lambda *a: (pose_model(), None))

    def find(model, image, boxes, **_):
        found.append(boxes)
        return np.zeros((1, 17, 2)), np.zeros((1, 17))

    monkeypatch.setattr(predict, "predict_pose", find)
    return found


def run(capsys, *arguments):
    """Return exit code, output and errors; every line of the errors begins as it should."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert all(line.startswith("error: ") for line in err.splitlines())
    return code, out, err


def filled_in(capsys, image, mask, out, *more):
    return run(capsys, "inpaint", image, mask, "-o", out, "--weights", "w", *more)


# Inpainting


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1"])
def test_inpaint_keeps_the_mode_and_the_known_pixels(reads, capsys, mode):
    Image.fromarray(PIXELS).convert(mode).save("image.png")
    assert filled_in(capsys, "image.png", "mask.png", "out.png") == (0, "out.png\n", "")
    with Image.open("image.png") as before, Image.open("out.png") as after:
        kept = "L" if mode == "1" else mode
        assert after.mode == kept
        before, after = np.asarray(before.convert(kept)), np.asarray(after)
    np.testing.assert_array_equal(after[HOLE == 0], before[HOLE == 0])
    assert (after.reshape(8, 8, -1)[HOLE > 0, 0] == FILLED).all()
    if kept.endswith("A"):
        np.testing.assert_array_equal(after[..., -1], before[..., -1])


def test_inpaint_fills_a_photograph_as_it_is_seen(reads, capsys):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    tall = Image.fromarray(np.concatenate([PIXELS, PIXELS]))  # 16 rows of 8
    tall.transpose(Image.Transpose.ROTATE_90).save("image.png", exif=exif, dpi=(300, 300))
    Image.fromarray(np.concatenate([HOLE, 0 * HOLE])).save("mask.png")
    assert filled_in(capsys, "image.png", "mask.png", "out.png")[0] == 0
    with Image.open("out.png") as after:
        found, info = np.asarray(after), after.getexif()
        assert dict(info) == {0x010F: "maker"} and round(after.info["dpi"][0]) == 300
    np.testing.assert_array_equal(found[8:], PIXELS)
    assert (found[:8][HOLE > 0] == FILLED).all() and (
        found[:8][HOLE == 0] == PIXELS[HOLE == 0]
    ).all()


@pytest.mark.parametrize(
    ("image", "mask", "out", "told"),
    [
        ("image.png", "empty.png", "out.png", "'empty.png' is empty: nothing is to be filled in"),
        ("image.png", "mask.png", "out", "unknown file extension"),
        ("image.png", "mask.png", "folder", "'folder' is a folder"),
        ("image.png", "mask.png", "", "output=''; expected a path"),
        ("image.png", "mask.png", "absent/out.png", "no folder 'absent'"),
        ("image.png", "mask.png", "image.png", "'image.png' exists"),
        ("image.png", "mask.png", "mask.png", "'mask.png' exists"),
        ("clear.png", "mask.png", "out.jpg", "JPEG can not hold an image of mode RGBA"),
        ("bomb.png", "mask.png", "out.png", "'bomb.png' can not be read as an image"),
        ("image.png", "bomb.png", "out.png", "'bomb.png' can not be read as a mask"),
        ("image.png", "folder", "out.png", "'folder'"),
        ("folder", "mask.png", "out", "'mask.png' is not a folder"),
        ("folder", "folder", "out", "no images"),
        ("images", "images", "out.png", "names an image; several images need a folder"),
        ("images", "images", "images", "'images/a.png' exists"),
        ("absent.png", "mask.png", "out.png", "'absent.png'"),
        ("image.png", "absent.png", "out.png", "'absent.png'"),
        ("https://example.org/x.png", "mask.png", "out.png", "download the file first"),
    ],
)
def test_inpaint_refuses_before_the_weights_are_read(
    reads, capsys, tmp_path, monkeypatch, image, mask, out, told
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    for folder in ("folder", "images"):
        (tmp_path / folder).mkdir()
    Image.fromarray(PIXELS).save("images/a.png")
    Image.new("L", (8, 8)).save("empty.png")
    Image.new("L", (30, 30)).save("bomb.png")
    Image.new("RGBA", (8, 8)).save("clear.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    code, printed, err = filled_in(capsys, image, mask, out)
    assert (code, printed, reads) == (2, "", []) and told in err and len(err.splitlines()) == 1
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert after == before


def test_inpaint_reads_larger_images_when_asked(reads, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    job = "image.png", "mask.png", "out.png"
    code, _, err = filled_in(capsys, *job)
    assert code == 2 and "--max-pixels" in err
    code, _, err = filled_in(capsys, *job, "--max-pixels", "0")
    assert code == 2 and "--max-pixels is 0; expected a positive number" in err
    assert filled_in(capsys, *job, "--max-pixels", "10000")[0] == 0


def test_inpaint_overwrites_when_asked(reads, capsys):
    assert filled_in(capsys, "image.png", "mask.png", "image.png", "--overwrite")[0] == 0
    with Image.open("image.png") as after:
        assert (np.asarray(after)[HOLE > 0] == FILLED).all()


def test_inpaint_goes_on_after_a_broken_file_of_a_folder(reads, capsys, tmp_path):
    whole = Image.fromarray(PIXELS)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for stem in "abcde":
        whole.save(f"images/{stem}.png")
        Image.fromarray(HOLE).save(f"masks/{stem}.png")
    (tmp_path / "images" / "a.png").write_bytes((tmp_path / "image.png").read_bytes()[:60])
    whole.convert("CMYK").save("images/b.jpg")
    (tmp_path / "images" / "b.png").unlink()
    Image.new("L", (8, 8)).save("masks/c.png")
    Image.new("L", (9, 8)).save("masks/d.png")
    code, out, err = filled_in(capsys, "images", "masks", "out")
    assert (code, out) == (1, "out/e.png\n")
    assert [line.split("/")[1][:5] for line in err.splitlines()] == [
        "a.png",
        "b.jpg",
        "c.png",
        "d.png",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["e.png"]
    for stem in "ae":
        (tmp_path / "masks" / f"{stem}.png").write_bytes(b"")
    assert filled_in(capsys, "images", "masks", "other")[:2] == (2, "")


# Poses


def drawn(capsys, *arguments):
    return run(capsys, "predict", *arguments, "--weights", "w", "--model", "pose_resnet18")


@pytest.mark.parametrize("words", [["--box", "-10,-10,200,200"], ["--box=-10,-10,200,200"]])
def test_a_box_may_begin_outside_the_image(boxes, capsys, words):
    assert drawn(capsys, "image.png", "--json", *words)[0] == 0
    assert boxes == [[(-10, -10, 200, 200)]]


@pytest.mark.parametrize(
    "box",
    [
        "1,2,3",
        "1,2,3,4,5",
        "a,b,c,d",
        "0,0,0,5",
        "0,0,5,-1",
        "nan,0,1,1",
        "-inf,0,1,1",
        "0,0,1,1e999",
        "",
    ],
)
def test_what_is_no_box_is_refused(boxes, capsys, box):
    with pytest.raises(SystemExit, match="2"):
        drawn(capsys, "image.png", "--json", "--box", box)
    assert f"{box!r} is not a box X,Y,W,H" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["image.png", "-o", "drawn"], "unknown file extension"),
        (["image.png", "-o", ""], "output=''; expected a path"),
        (["image.png", "-o", "absent/x.png"], "no folder 'absent'"),
        (["image.png", "-o", "image.png"], "'image.png' exists"),
        (["image.png", "-o", "."], "'image.png' exists"),
        (["image.png", "mask.png", "-o", "mask.png"], "'mask.png' is a file"),
        (["image.png", "mask.png", "-o", "x.png"], "several images need a folder"),
        (["image.png", "mask.png", "-o", "."], "'image.png', 'mask.png' exist;"),
        (["image.png", "other/image.jpg", "-o", "out"], "would both be drawn to 'out/image.png'"),
    ],
)
def test_predict_refuses_an_output_before_the_weights_are_read(
    boxes, reads, capsys, tmp_path, arguments, told
):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = drawn(capsys, *arguments)
    assert (code, out, reads) == (2, "", []) and told in err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_predict_draws_to_new_files_and_over_old_ones_when_asked(boxes, capsys, tmp_path):
    assert drawn(capsys, "image.png", "image.png", "-o", "new.jpg")[0] == 0  # one image
    assert drawn(capsys, "image.png", "-o", "new.jpg", "--overwrite")[0] == 0
    assert drawn(capsys, "image.png", "mask.png", "-o", "out/deeper")[0] == 0
    assert {path.name for path in (tmp_path / "out" / "deeper").iterdir()} == {
        "image.png",
        "mask.png",
    }
    (tmp_path / "text.jpg").write_text("text")
    code, out, err = drawn(capsys, "text.jpg", "image.png", "--json")
    assert code == 1 and list(json.loads(out)) == ["image.png"] and "'text.jpg'" in err
    assert drawn(capsys, "text.jpg", "absent.jpg", "--json")[:2] == (2, "{}\n")


# Classes


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("räv".encode("latin-1"), "'l.txt' is not UTF-8"),
        ("a\nb".encode("utf-16"), "'l.txt' is not UTF-8"),
        (None, "'l.txt': No such file"),
    ],
)
def test_labels_that_can_not_be_read_are_named(reads, capsys, tmp_path, text, told):
    if text is not None:
        (tmp_path / "l.txt").write_bytes(text)
    code, _, err = run(capsys, "predict", "image.png", "--weights", "w", "--labels", "l.txt")
    assert code == 2 and told in err and not reads


def test_names_are_printed_as_they_are(capsys):
    print_shares({"photo[red].jpg": [Class("[/b] [bold]", 0.5)]})
    out = capsys.readouterr().out
    assert "photo[red].jpg" in out and "[/b] [bold]" in out


def test_a_reader_that_has_read_enough_is_no_fault(monkeypatch, capfd):
    def run(*_):
        raise BrokenPipeError

    monkeypatch.setattr("spectral_flax.cli.list_models.run", run)
    with open("out", "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        assert main(["list"]) == 1
    assert capfd.readouterr().err == ""
