import dataclasses

import numpy as np
import pytest
from PIL import Image

from spectral_flax.inference.crops import centre, five, three
from train.config import Data
from train.data import crops
from train.data.augment import Augmentation, Views
from train.data.colour import colour_jitter, turn_hue
from train.data.rand_augment import OPERATIONS, rand_augment

from .data_files import picture

SHAPES = [(500, 375), (375, 500), (224, 224), (40, 300), (3, 2), (20_000, 1), (1, 1)]
RANDOM = {
    "random_resized": lambda w, h, rng: crops.random_resized(w, h, rng),
    "multi_scale": lambda w, h, rng: crops.multi_scale(w, h, rng, (32, 32)),
    "short_side": lambda w, h, rng: crops.random_short_side(w, h, rng, (32, 32), (40, 50)),
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def centre_of(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RANDOM)
def test_random_boxes_lie_inside_the_image(name, shape, rng):
    for _ in range(200):
        left, top, right, bottom = RANDOM[name](*shape, rng)
        assert 0 <= left < right <= shape[0] and 0 <= top < bottom <= shape[1]


def test_random_resized_boxes_have_the_areas_and_shapes_asked_for(rng):
    boxes = np.array([crops.random_resized(500, 400, rng) for _ in range(2000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / (500 * 400), w / h
    assert 0.07 < area.min() < 0.1 and 0.85 < area.max() <= 1.01
    assert 0.74 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.35
    # Wider and taller boxes are equally likely before those that do not fit are drawn again.
    assert 0.45 < np.mean(ratio[area < 0.5] < 1) < 0.55


def test_an_image_that_no_draw_fits_gives_its_centre(rng):
    box = crops.random_resized(1000, 10, rng, scale=(1.0, 1.0))
    np.testing.assert_allclose(box, (500 - 20 / 3, 0, 500 + 20 / 3, 10))


def test_multi_scale_crops_are_those_of_the_paper(rng):
    boxes = {crops.multi_scale(340, 256, rng, (224, 224)) for _ in range(5000)}
    sides = {(right - left, bottom - top) for left, top, right, bottom in boxes}
    # 0.875 * 256 = 224 and so on; neighbouring scales only, so 256 never goes with 192.
    one = [256, 224, 192, 168]
    assert sides == {(w, h) for i, w in enumerate(one) for j, h in enumerate(one) if abs(i - j) < 2}
    places = {box[:2] for box in boxes if (box[2] - box[0], box[3] - box[1]) == (192, 192)}
    assert len(places) == 13
    assert {(0, 0), (148, 0), (0, 64), (148, 64), (74, 32)} <= places


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_central_crop_is_central_and_of_the_right_size(shape):
    (box,) = centre(*shape, (224, 224), 256)
    # Sides of the resized image are rounded down, and crops cut out of it at whole pixels.
    np.testing.assert_allclose(centre_of(box), (shape[0] / 2, shape[1] / 2), atol=min(shape) / 256)
    np.testing.assert_allclose(box[2] - box[0], min(shape) * 224 / 256, rtol=1 / 256)


@pytest.mark.parametrize("shape", [(60, 40), (41, 67), (33, 90)], ids=str)
def test_a_crop_is_that_of_the_resized_image(shape):
    image = picture(width=shape[0], height=shape[1])
    scaled = [max(32, 32 * side // min(shape)) for side in shape]
    left, top = (round((side - 28) / 2) for side in scaled)
    cut = image.resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + 28, top + 28))
    (view,) = Views((28, 28), "centre", Data(resize=32))([image])
    difference = view[0].astype(int) - np.asarray(cut)
    assert np.abs(difference).max() <= 1


def test_three_crops_cover_the_longer_side():
    wide = three(400, 300, (256, 256), 256)
    scaled = 341  # of 256 * 400 / 300, rounded down
    lefts = [left * 400 / scaled for left in (0, round((scaled - 256) / 2), scaled - 256)]
    assert [box[0] for box in wide] == pytest.approx(lefts) and wide[2][2] == 400
    tall = three(300, 400, (256, 256), 256)
    assert [box[1] for box in tall] == pytest.approx(lefts) and tall[2][3] == 400


def test_five_crops_are_the_corners_and_the_centre():
    boxes = five(256, 256, (224, 224), 256)
    assert [box[:2] for box in boxes] == [(0, 0), (32, 0), (0, 32), (32, 32), (16, 16)]


def test_ten_crops_are_five_and_their_mirror_images():
    views = Views((24, 24), "ten", Data())([picture()])
    assert views.shape == (10, 1, 24, 24, 3) and len(Views((24, 24), "ten", Data())) == 10
    np.testing.assert_array_equal(views[5:], views[:5, :, :, ::-1])
    assert len({view.tobytes() for view in views}) == 10


def test_a_crop_of_the_whole_image_is_the_image():
    image = picture(height=32, width=32)
    (view,) = Views((32, 32), "centre", Data(resize=32))([image])
    np.testing.assert_array_equal(view[0], np.asarray(image))
    reverse = Views((32, 32), "centre", Data(resize=32, channels="bgr"))([image])
    np.testing.assert_array_equal(reverse[0, ..., ::-1], view)


@pytest.mark.parametrize("crop", [*RANDOM, "centre"])
def test_all_frames_of_a_clip_are_varied_alike(crop, rng):
    data = Data(crop=crop, rand_augment=2, colour_jitter=(0.4, 0.4, 0.4, 0.1), short_side=(20, 30))
    augmentation = Augmentation((16, 24), data)
    frames = [picture()] * 3
    pixels = augmentation(frames, augmentation.box(60, 40, rng), rng)
    assert pixels.shape == (3, 16, 24, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.broadcast_to(pixels[:1], pixels.shape))


@pytest.mark.parametrize(("flip", "share"), [(None, 0.5), (True, 0.5), (False, 0.0)])
def test_half_of_the_images_are_mirrored_unless_forbidden(flip, share, rng):
    augmentation = Augmentation((16, 16), Data(crop="centre", flip=flip))
    image = picture(height=16, width=16)
    box = augmentation.box(16, 16, rng)
    plain = augmentation([image], box, np.random.default_rng(1))
    same = [np.array_equal(augmentation([image], box, rng), plain) for _ in range(200)]
    assert abs(min(np.mean(same), 1 - np.mean(same)) - share) < 0.1


def test_a_hue_turned_all_the_way_round_is_itself():
    image = Image.fromarray(np.array([[[200, 30, 90], [10, 220, 40]]], np.uint8))
    there = np.asarray(turn_hue(image, 1 / 3)).astype(int)
    np.testing.assert_allclose(there[0, 0], [90, 200, 30], atol=6)  # red becomes green
    back = turn_hue(turn_hue(image, 1 / 3), -1 / 3)
    np.testing.assert_allclose(np.asarray(back).astype(int), np.asarray(image), atol=6)


@pytest.mark.parametrize(
    ("strength", "changed"),
    [
        ((0.5, 0, 0, 0), np.mean),
        ((0, 0.9, 0, 0), np.std),
        ((0, 0, 1, 0), lambda x: np.ptp(x, -1).mean()),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_colour_jitter_spreads_what_it_names(strength, changed, rng):
    image = picture()
    found = [changed(np.asarray(colour_jitter([image], rng, strength)[0])) for _ in range(100)]
    usual = changed(np.asarray(image))
    assert min(found) < 0.8 * usual < usual < max(found)


def test_no_strength_leaves_the_image_alone(rng):
    assert colour_jitter([image := picture()], rng, (0, 0, 0, 0)) == [image]


GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in ("auto_contrast", "equalize")])
def test_an_operation_of_no_strength_changes_nothing(name):
    image = picture()
    np.testing.assert_array_equal(OPERATIONS[name][0](image, 0.0), image)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n != "identity"])
def test_an_operation_of_full_strength_changes_the_image(name):
    image = picture()
    changed = OPERATIONS[name][0](image, 1.0)
    assert changed.size == image.size and changed.mode == "RGB"
    assert not np.array_equal(changed, image)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_operations_of_opposite_strength_move_oppositely(name):
    y, x = np.mgrid[:41, :61]
    bump = 255 * np.exp(-((x - 40) ** 2 + (y - 15) ** 2) / 8)
    image = Image.fromarray(np.repeat(bump[..., None], 3, -1).astype(np.uint8))

    def place(strength):
        weight = np.asarray(OPERATIONS[name][0](image, strength))[..., 0].astype(float)
        return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()

    there, back = place(0.2) - place(0), place(-0.2) - place(0)
    assert np.linalg.norm(there) > 0.2
    np.testing.assert_allclose(there, -back, atol=0.35 * np.linalg.norm(there))


def test_rand_augment_draws_every_operation(rng):
    image = picture()
    found = {rand_augment([image], rng, 1, 15)[0].tobytes() for _ in range(400)}
    signed = sum(sign for _, sign in OPERATIONS.values())
    assert len(found) == len(OPERATIONS) + signed


def test_the_generator_decides_the_augmentation():
    augmentation = Augmentation((16, 16), dataclasses.replace(Data(), rand_augment=2))

    def draw(seed):
        rng = np.random.default_rng(seed)
        return augmentation([picture()], augmentation.box(60, 40, rng), rng)

    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))
