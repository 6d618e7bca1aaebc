import os

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from spectral_flax.inference.image_output import check_output, check_output_folder, save_image
from spectral_flax.inference.images import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def source(tmp_path, name, turn=6):
    """An image file that says all that it may say beside its pixels."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = turn, "maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8769)[0xA002] = 1
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6" note="seen"/></x:xmpmeta>'
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = dict(exif=exif.tobytes(), icc_profile=profile, dpi=(300, 300), xmp=xmp)
    if name.endswith(".png"):
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Author", "A. Person")
        options["pnginfo"].add_itxt("Title", "Łódź", "pl", "Tytuł")
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    return saved(tmp_path, Image.fromarray(PIXELS), name, **options), profile


@pytest.mark.parametrize("out", ["o.png", "o.jpg", "o.tif", "o.webp"])
@pytest.mark.parametrize("name", ["i.png", "i.jpg", "i.tif", "i.webp"])
def test_what_an_image_says_beside_its_pixels_is_kept_and_is_of_the_upright_one(
    tmp_path, name, out
):
    file, profile = source(tmp_path, name)
    upright = read_image(file, alpha="keep")
    save_image(upright, tmp_path / out, source=file)
    with Image.open(tmp_path / out) as found:
        found.load()
        exif, info = found.getexif(), found.info
        assert found.size == (6, 9) == upright.size
        assert exif.get(0x0112, 1) == 1 and exif[0x010F] == "maker"
        assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert exif.get_ifd(0x8769)[0xA002] == 6
        assert info["icc_profile"] == profile
        if "webp" not in name + out:
            assert info["dpi"] == pytest.approx((300, 300), abs=0.01)
        if name != "i.tif":
            assert b"seen" in info["xmp"] and b'tiff:Orientation="1"' in info["xmp"]
        if name == out.replace("o", "i") == "i.png":
            assert found.text["Author"] == "A. Person" and found.text["Title"] == "Łódź"
            assert found.text["Title"].lang == "pl"
    np.testing.assert_array_equal(read_image(tmp_path / out).size, upright.size)
    if out != "o.jpg":
        np.testing.assert_array_equal(read_image(tmp_path / out), upright)


def test_gamma_and_primaries_of_a_png_are_kept(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", (100000).to_bytes(4, "big"))
    info.add(b"cHRM", b"".join((1000 * i).to_bytes(4, "big") for i in range(8)))
    file = saved(tmp_path, Image.fromarray(PIXELS), pnginfo=info)
    save_image(read_image(file), tmp_path / "o.png", source=file)
    with Image.open(tmp_path / "o.png") as found:
        assert found.info["gamma"] == 1
        assert found.info["chromaticity"] == pytest.approx([i / 100 for i in range(8)])


def test_a_damaged_exif_does_not_make_a_damaged_image(tmp_path):
    file = saved(tmp_path, Image.fromarray(PIXELS), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0")
    with pytest.warns(UserWarning):
        save_image(read_image(file), tmp_path / "o.png", source=file)
    np.testing.assert_array_equal(read_image(tmp_path / "o.png"), PIXELS)


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("", "RGB", "output=''; expected a path"),
        ("drawn", "RGB", "unknown file extension ''"),
        ("x.png.txt", "RGB", "unknown file extension '.txt'"),
        ("x.jpg", "RGBA", "can not hold an image of mode RGBA"),
        ("x.bmp", "LA", "can not hold an image of mode LA"),
        ("folder", "RGB", "is a folder"),
        ("folder.png", "RGB", "is a folder"),
        ("absent/x.png", "RGB", "there is no folder 'absent'"),
        ("old.png", "RGB", "exists"),
        ("dangling.png", "RGB", "exists"),
        ("old.png/x.png", "RGB", "there is no folder"),
    ],
)
def test_an_output_that_can_not_be_written_is_found_before_the_work(
    tmp_path, monkeypatch, name, mode, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "old.png").write_bytes(b"old")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    with pytest.raises((ValueError, OSError), match=message):
        check_output(name, mode=mode)
    with pytest.raises((ValueError, OSError), match=message):
        save_image(Image.new(mode, (2, 2)), name)
    assert (tmp_path / "old.png").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("folder", "folder.png", "old.png", "dangling.png")
    }


def test_a_folder_that_may_not_be_written_to_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="nothing can be written"):
        check_output(tmp_path / "x.png")
    with pytest.raises(PermissionError, match="nothing can be written"):
        check_output_folder(tmp_path / "new", [])


def test_a_file_is_overwritten_when_asked(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (2, 2)))
    save_image(Image.new("RGB", (3, 3)), path, overwrite=True)
    assert read_image(path).size == (3, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "output=''; expected a path"),
        ("file", "is a file"),
        ("filled.png", "names an image"),
        ("file/deeper", "not a folder"),
        ("full", "a.png.* exists"),
    ],
)
def test_a_folder_of_outputs_is_checked_before_the_work(tmp_path, monkeypatch, folder, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.png").write_text("")
    with pytest.raises((ValueError, OSError), match=message):
        check_output_folder(folder, [tmp_path / folder / "a.png"])
    check_output_folder("full", [tmp_path / "full" / "a.png"], overwrite=True)
    check_output_folder("new/deeper", [])
    assert not (tmp_path / "new").exists()
