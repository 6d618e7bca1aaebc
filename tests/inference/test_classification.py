# SPDX-License-Identifier: Apache-2.0
"""Classes of images: labels, inputs prepared as the card says, the best classes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from spectral_flax.inference.classification import best_classes, read_labels
from spectral_flax.inference.images import read_image
from spectral_flax.inference.prediction import predict
from spectral_flax.inference.preparation import prepare
from spectral_flax.models.record import Card

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


class Colours(nnx.Module):
    """A network whose classes are the mean of each channel."""

    def __call__(self, x):
        return 10 * jnp.mean(x, (1, 2))


PLAIN = dict(paper="", input_size=(8, 8), resize=8, mean=(0,) * 3, std=(1,) * 3)


@pytest.mark.parametrize(("order", "best"), [("RGB", "r"), ("BGR", "b")])
def test_arrays_pictures_and_files_give_the_same_classes(order, best, tmp_path):
    red = np.zeros((20, 30, 3), np.uint8) + np.uint8((250, 100, 0))
    Image.fromarray(red).save(tmp_path / "x.png")
    images = [red, Image.fromarray(red), tmp_path / "x.png", str(tmp_path / "x.png")]
    about = Card(**PLAIN, channel_order=order)
    found = predict(Colours(), images, about=about, class_names="rgb", top=2)
    assert [[label for label, _ in classes] for classes in found] == [[best, "g"]] * 4
    assert len({classes[0].probability for classes in found}) == 1


def test_the_best_classes_come_first_and_equal_ones_in_order():
    (found,) = best_classes(np.array([[0.2, 0.4, 0.4]]), top=9)
    assert found == [("class 1", 0.4), ("class 2", 0.4), ("class 0", 0.2)]
    assert predict(Colours(), [], about=Card(**PLAIN)) == []


@pytest.mark.parametrize(
    ("image", "options", "told"),
    [
        (np.zeros((8, 8, 3)), {}, r"image is float64 \(8, 8, 3\); expected uint8"),
        (np.zeros((8, 8), np.uint8), {}, r"image is uint8 \(8, 8\); expected uint8"),
        (PIXELS, dict(class_names=["a"]), "labels names 1 classes; the model has 3"),
        (PIXELS, dict(top=0), "top=0; expected a positive number"),
    ],
)
def test_what_can_not_be_classified_is_refused(image, options, told):
    with pytest.raises(ValueError, match=told):
        predict(Colours(), [image], about=Card(**PLAIN), **options)


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("l.txt", "a\nb c\n\nd\n", ["a", "b c", "", "d"]),
        ("l.txt", "", []),
        ("l.json", '["a", "b"]', ["a", "b"]),
        ("l.json", '{"1": ["n02", "b"], "0": ["n01", "a"]}', ["a", "b"]),
        ("l.json", '{"0": "a", "1": "b"}', ["a", "b"]),
    ],
)
def test_labels_are_read_in_the_usual_forms(name, text, labels, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_labels(tmp_path / name) == labels


@pytest.mark.parametrize("text", ["{", "3", '{"a": "b"}', "[[]]"])
def test_other_labels_are_refused(text, tmp_path):
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(ValueError, match=r"l\.json holds no class names"):
        read_labels(tmp_path / "l.json")


CARD = Card(paper="", input_size=(32, 32), resize=36)


def mode_of(mode: str) -> Image.Image:
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        return Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(PIXELS[..., 0].astype(np.int32) * 257)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I"])
def test_images_of_every_mode_are_read(mode, tmp_path):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I") else "image.png")
    mode_of(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (60, 40)
    if mode.startswith("I"):
        np.testing.assert_array_equal(np.asarray(image)[..., 1], PIXELS[..., 0])
    x = prepare(image, CARD)
    assert x.shape == (32, 32, 3) and x.dtype == np.float32 and np.isfinite(x).all()


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert np.asarray(read_image(tmp_path / "x.png", alpha="white")).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7), (31, 400), (2000, 30)])
def test_images_of_every_size_are_prepared(size):
    assert prepare(Image.new("RGB", size, "red"), CARD).shape == (32, 32, 3)


def test_the_card_says_how_an_image_is_normalised():
    image = Image.new("RGB", (32, 32), (255, 51, 0))
    x = prepare(image, Card(paper="", input_size=(32, 32), resize=32, mean=(0,) * 3, std=(1,) * 3))
    np.testing.assert_allclose(x[5, 6], [1, 0.2, 0], atol=1e-6)
    wide = dict(paper="", input_size=(32, 32), resize=32, channel_order="BGR")
    x = prepare(image, Card(**wide, mean=(100, 110, 120), std=(1, 1, 1)))
    np.testing.assert_allclose(x[5, 6], [-100, -59, 135], atol=1e-4)


def test_a_photograph_is_scaled_by_its_shorter_side_and_cut_in_the_middle():
    ramp = np.tile(3 * np.arange(80, dtype=np.uint8), (40, 1))
    image = Image.fromarray(ramp).convert("RGB")
    x = prepare(image, Card(paper="", input_size=(20, 20), resize=20, mean=(0,) * 3, std=(1,) * 3))
    assert x.mean() * 255 / 3 == pytest.approx(39.5, abs=0.5)


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfa\nb", b"a\r\nb\r\n", b"a\nb\n\n", b'["a", "b"]'])
def test_a_mark_and_line_ends_are_no_part_of_labels(tmp_path, text):
    name = tmp_path / ("l.json" if text.startswith(b"[") else "l.txt")
    for mark in (b"", b"\xef\xbb\xbf"):
        name.write_bytes(mark + text.removeprefix(b"\xef\xbb\xbf"))
        assert read_labels(name) == ["a", "b"]


def test_a_deep_json_of_labels_is_named(tmp_path):
    (tmp_path / "l.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"l\.json.* holds no class names"):
        read_labels(tmp_path / "l.json")
