import os
import pickle
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from spectral_flax.inference.images import (
    ImageFileError,
    files_by_stem,
    normalized,
    opened,
    pillow,
    read_image,
    read_mask,
    read_pair,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
SHAPE = np.zeros((6, 9), bool)
SHAPE[1:4, 2:7] = True


def painted(mode, inside, outside):
    """An image of ``mode`` with values ``inside`` the shape and ``outside`` of it."""
    values = np.where(SHAPE[..., None], np.uint8(inside), np.uint8(outside))
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values, mode)


def with_palette(indices, *colours, **info):
    image = Image.fromarray(np.uint8(indices), "P")
    image.putpalette(sum(colours, ()))
    image.info |= info
    return image


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def turned(image, turn, tmp_path, name="x.png", **options):
    """Save an image as a camera does that notes how it was held: it looks like ``image``."""
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = image if back is None else image.transpose(Image.Transpose(back))
    return saved(tmp_path, stored, name, exif=exif, **options), stored


# What cannot be read


def broken(tmp_path):
    whole = saved(tmp_path, Image.fromarray(PIXELS), "whole.jpg").read_bytes()
    deflated = saved(tmp_path, Image.fromarray(PIXELS), "whole.png").read_bytes()
    for name, content in {
        "empty.jpg": b"",
        "text.jpg": b"a text named .jpg\n" * 50,
        "half.jpg": whole[: len(whole) // 2],
        "half.png": deflated[: len(deflated) // 2],
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "new\nline.jpg": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        yield tmp_path / name
    for name, width in (("warned_of.png", 10000), ("bomb.png", 20000)):
        header = b"IHDR" + struct.pack(">IIBBBBB", width, 9000, 8, 0, 0, 0, 0)
        check = struct.pack(">I", zlib.crc32(header))
        (tmp_path / name).write_bytes(deflated[:8] + b"\0\0\0\r" + header + check + deflated[33:])
        yield tmp_path / name
    os.mkfifo(tmp_path / "pipe.jpg")
    yield tmp_path / "pipe.jpg"
    yield "https://example.org/photo.jpg"


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_what_is_no_image_is_an_error_of_one_line_that_names_the_file(tmp_path, read):
    for file in broken(tmp_path):
        with pytest.raises(ImageFileError, match="can not be read as") as told:
            read(file)
        assert str(told.value).startswith(repr(str(file))) and "\n" not in str(told.value)
        assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_missing_file_and_a_folder_are_named(tmp_path, read):
    for file in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(OSError, match=file.name):
            read(file)


def test_what_the_body_raises_is_a_fault_of_the_file(tmp_path):
    path = saved(tmp_path, Image.fromarray(PIXELS))
    told = pytest.raises(ImageFileError, match=r"x\.png' can not be read as a map: no\\x07 such")
    with told, opened(path, "a map"):
        raise ValueError("no\a\nsuch")


# Modes


GREY = PIXELS[..., :1]
KEPT = {
    "L": ("L", {}, "L"),
    "1": ("1", {}, "L"),
    "LA": ("LA", {}, "LA"),
    "RGB": ("RGB", {}, "RGB"),
    "RGBA": ("RGBA", {}, "RGBA"),
    "P": ("P", {}, "RGB"),
    "P, a clear entry": ("P", {"transparency": 3}, "RGBA"),
    "L, a clear value": ("L", {"transparency": 3}, "LA"),
    "RGB, a clear colour": ("RGB", {"transparency": (1, 2, 3)}, "RGBA"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_an_image_to_be_written_again_keeps_grey_and_transparency(tmp_path, kind):
    mode, options, kept = KEPT[kind]
    path = saved(tmp_path, Image.fromarray(PIXELS).convert(mode), **options)
    found = read_image(path, alpha="keep")
    assert found.mode == kept
    with Image.open(path) as file:
        np.testing.assert_array_equal(found, file.convert("RGBA").convert(kept))
    assert read_image(path).mode == read_image(path, alpha="white").mode == "RGB"


def deep(kind, tmp_path):
    if kind == "I;16":
        return saved(tmp_path, Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257))
    if kind == "I":
        return saved(tmp_path, Image.fromarray(PIXELS[..., 0].astype(np.int32) * 257), "x.tif")
    if kind == "F":
        return saved(tmp_path, Image.fromarray(PIXELS[..., 0].astype(np.float32)), "x.tif")
    if kind == "CMYK":
        return saved(tmp_path, Image.fromarray(PIXELS).convert("CMYK"), "x.tif")
    if kind == "PPM":
        (tmp_path / "x.ppm").write_bytes(b"P6 1 1 65535\n" + bytes(6))
        return tmp_path / "x.ppm"
    image = Image.fromarray(PIXELS)
    return saved(tmp_path, image, "x.gif", save_all=True, append_images=[image.rotate(90)])


@pytest.mark.parametrize("kind", ["I;16", "I", "F", "CMYK", "PPM", "two frames"])
def test_what_could_only_be_written_again_with_a_loss_is_refused(tmp_path, kind):
    path = deep(kind, tmp_path)
    for read in (lambda p: read_image(p, alpha="keep"), read_mask):
        with pytest.raises(ImageFileError, match=r"8 bits|CMYK|2 frames"):
            read(path)
    if kind == "F":
        with pytest.raises(ImageFileError, match="floating point"):
            read_image(path)
    else:
        assert read_image(path).mode == "RGB"


def test_16_bits_become_the_nearest_of_8(tmp_path):
    for kind in ("I;16", "I"):
        found = np.asarray(read_image(deep(kind, tmp_path)))
        np.testing.assert_array_equal(found, np.repeat(PIXELS[..., :1], 3, -1))


# Frames


@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_images_and_masks_are_upright_whatever_the_format(tmp_path, kind, turn):
    lossless = {"lossless": True} if kind == "webp" else {}
    image, _ = turned(Image.fromarray(PIXELS), turn, tmp_path, f"x.{kind}", **lossless)
    np.testing.assert_array_equal(read_image(image), PIXELS)
    np.testing.assert_array_equal(read_image(image, alpha="keep"), PIXELS)
    mask, _ = turned(painted("L", (9,), (0,)), turn, tmp_path, f"m.{kind}", **lossless)
    np.testing.assert_array_equal(read_mask(mask) != 0, SHAPE)


@pytest.mark.parametrize("turn", range(2, 9))
def test_image_and_mask_are_in_one_frame_or_refused(tmp_path, turn):
    drawn = painted("L", (255,), (0,))
    image, _ = turned(Image.fromarray(PIXELS), turn, tmp_path, "image.tif")
    _, stored = turned(drawn, turn, tmp_path, "turned.png")
    upright, as_stored = saved(tmp_path, drawn, "up.png"), saved(tmp_path, stored, "stored.png")
    found, marked = read_pair(image, tmp_path / "turned.png")  # both say how they are turned
    np.testing.assert_array_equal(found, PIXELS)
    np.testing.assert_array_equal(marked != 0, SHAPE)
    for mask in (upright, as_stored):
        if turn < 5:  # the sizes do not tell
            with pytest.raises(ValueError, match=f"EXIF orientation {turn}, its mask .* has none"):
                read_pair(image, mask)
        else:
            np.testing.assert_array_equal(read_pair(image, mask)[1] != 0, SHAPE)


def test_a_mask_of_another_size_is_named(tmp_path):
    image = saved(tmp_path, Image.fromarray(PIXELS))
    with pytest.raises(ValueError, match=r"mask .*m\.png' is 6x9; its image is 9x6"):
        read_pair(image, saved(tmp_path, Image.new("L", (6, 9)), "m.png"))


# What masks mark


BLACK, WHITE = (0, 0, 0), (255, 255, 255)
MASKS = {
    "white on black": painted("L", (255,), (0,)),
    "1 on 0": painted("L", (1,), (0,)),
    "1 bit": painted("L", (255,), (0,)).convert("1"),
    "the darkest red": painted("RGB", (1, 0, 0), BLACK),
    "the darkest blue": painted("RGB", (0, 0, 3), BLACK),
    "opaque": painted("RGBA", (0, 0, 3, 255), (0, 0, 0, 255)),
    "evenly half transparent": painted("RGBA", (*WHITE, 128), (*BLACK, 128)),
    "white on clear white": painted("RGBA", (*WHITE, 255), (*WHITE, 0)),
    "black on clear black": painted("RGBA", (*BLACK, 255), (*BLACK, 0)),
    "black on clear white": painted("RGBA", (*BLACK, 255), (*WHITE, 0)),
    "red on clear black": painted("RGBA", (255, 0, 0, 200), (*BLACK, 0)),
    "LA, the shape in alpha": painted("LA", (255, 255), (255, 0)),
    "LA, all black": painted("LA", (0, 255), (0, 0)),
    "LA, opaque": painted("LA", (1, 255), (0, 255)),
    "palette of dark colours": with_palette(SHAPE, BLACK, (0, 0, 3)),
    "palette of labels": with_palette(SHAPE * 2, BLACK, (128, 0, 0), (0, 128, 0)),
    "palette, clear ground": with_palette(SHAPE, BLACK, BLACK, transparency=b"\0\xff"),
}


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_marks_the_shape_however_it_was_drawn(tmp_path, kind, labels):
    found = read_mask(saved(tmp_path, MASKS[kind]), labels=labels)
    np.testing.assert_array_equal(found != 0, SHAPE)
    assert len(np.unique(found)) == 2


def test_of_a_palette_holes_are_what_is_seen_and_labels_are_indices(tmp_path):
    path = saved(tmp_path, with_palette(1 - SHAPE, WHITE, BLACK))
    np.testing.assert_array_equal(read_mask(path) != 0, SHAPE)
    with pytest.raises(ImageFileError, match="palette contradicts its labels"):
        read_mask(path, labels=True)
    path = saved(tmp_path, with_palette(SHAPE, (0, 90, 0), (90, 0, 0)))  # a coloured ground
    np.testing.assert_array_equal(read_mask(path, labels=True), SHAPE)
    assert (read_mask(path) != 0).all()


def test_every_colour_of_a_mask_has_a_number_of_its_own(tmp_path):
    colours = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]], np.uint8)
    assert len(np.unique(read_mask(saved(tmp_path, Image.fromarray(colours))))) == 5


def test_a_clear_mask_marks_nothing_and_a_photograph_with_a_gap_is_refused(tmp_path):
    clear = Image.new("RGBA", (9, 6), (255, 255, 255, 0))
    assert not read_mask(saved(tmp_path, clear)).any()
    alpha = Image.fromarray(np.where(SHAPE, np.uint8(0), np.uint8(255)))
    photograph = Image.fromarray(PIXELS)
    photograph.putalpha(alpha)
    with pytest.raises(ImageFileError, match="transparent in parts and not of one colour"):
        read_mask(saved(tmp_path, photograph))
    nowhere_clear = painted("RGBA", (*WHITE, 255), (*WHITE, 128))
    with pytest.raises(ImageFileError, match="transparent in parts"):
        read_mask(saved(tmp_path, nowhere_clear))


def test_files_of_one_stem_are_refused_and_hidden_ones_passed_over(tmp_path):
    saved(tmp_path, Image.fromarray(PIXELS), "a.png")
    (tmp_path / "._a.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    saved(tmp_path, Image.fromarray(PIXELS), "b_mask.PNG")
    assert set(files_by_stem(tmp_path, ending="_mask")) == {"a", "b"}
    saved(tmp_path, Image.fromarray(PIXELS), "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg' and .*a\.png' share a name"):
        files_by_stem(tmp_path)


def test_normalised_is_the_definition():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    wanted = (PIXELS.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(normalized(PIXELS, mean, std), wanted, rtol=1e-5, atol=1e-6)
    wanted = (PIXELS[..., ::-1].astype(np.float64) / 255 - mean) / std
    found = normalized(PIXELS[None, None], mean, std, bgr=True)
    np.testing.assert_allclose(found[0, 0], wanted, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_without_pillow_an_error_says_what_to_install(tmp_path, monkeypatch):
    pillow.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL", None)
    for read in (read_image, read_mask):
        with pytest.raises(ImportError, match=r'pip install "spectral-flax\[images\]"'):
            read(tmp_path / "x.png")
