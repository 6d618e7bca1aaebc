"""One policy for files that cannot be used, whichever the task."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from spectral_flax.inference import images
from train import data
from train.config import Config, Data
from train.errors import UserError
from train.tasks import TASKS, open_data

from .data_files import damage, picture

COUNT = 4
SIZE = (16, 24)


def segmentation(root):
    for part in ("train", "test"):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for i in range(COUNT):
            picture(i).save(root / part / "images" / f"{i}.jpg")
            Image.new("L", (60, 40), 255).save(root / part / "masks" / f"{i}.png")
        damage(root / part / "images")
        for file in (root / part / "images").glob("*[!0-9].*"):
            Image.new("L", (60, 40)).save(root / part / "masks" / f"{file.stem}.png")
    return Data(name="image_mask_folders", path=str(root), size=SIZE)


def inpainting(root):
    for part in ("train", "test"):
        (root / part).mkdir()
        for i in range(COUNT):
            picture(i).save(root / part / f"{i}.jpg")
        damage(root / part)
    return Data(name="image_folder", path=str(root), size=SIZE)


def pose(root):
    (root / "annotations").mkdir()
    for part in ("train2017", "val2017"):
        folder = root / part
        folder.mkdir()
        for i in range(COUNT):
            picture(i).save(folder / f"{i}.jpg")
        damage(folder)
        files = sorted(path.name for path in folder.iterdir())
        images = [dict(id=i, width=60, height=40, file_name=name) for i, name in enumerate(files)]
        person = dict(category_id=1, iscrowd=0, area=90.0, bbox=[2, 2, 30, 30])
        person |= dict(keypoints=[4, 4, 2] * 17, num_keypoints=17)
        people = [person | dict(id=i + 1, image_id=i) for i in range(len(files))]
        kinds = [dict(id=1, name="person")]
        whole = dict(images=images, annotations=people, categories=kinds)
        (root / "annotations" / f"person_keypoints_{part}.json").write_text(json.dumps(whole))
    return Data(name="coco_keypoints", path=str(root), size=SIZE)


def opened(settings, split, **options):
    (task,) = (name for name, entry in TASKS.items() if settings.name in entry.data)
    return open_data(Config(task=task, task_options=options, data=settings), split)


@pytest.fixture(params=[segmentation, inpainting, pose])
def settings(request, tmp_path):
    return request.param(tmp_path)


def test_a_broken_file_is_named_once_and_another_takes_its_place_in_training(settings, capfd):
    source = opened(settings, "train")
    assert len(source) == COUNT + 5
    batches = data.training_batches(Config(batch_size=3, data=Data(prefetch=1)), source)
    found = np.concatenate([next(batches)["image"] for _ in range(6)])  # two epochs
    batches.close()
    assert found.std(axis=(1, 2, 3)).min() > 1  # pictures, all of them
    said = capfd.readouterr().err.splitlines()
    assert len(said) == len(source.unreadable.names()) == 5
    assert all(line.startswith("skipped, cannot be read: ") for line in said)


def test_a_broken_file_counts_for_nothing_in_a_test(settings, capfd):
    source = opened(settings, "test")
    batches = list(data.evaluation_batches(source, 4, Data(prefetch=1)))
    valid = np.concatenate([batch["valid"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])
    assert (len(valid), valid.sum()) == (12, COUNT)
    assert images[valid > 0].std(axis=(1, 2, 3)).min() > 1
    assert capfd.readouterr().err.count("skipped") == 5


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_of_broken_files_alone_is_refused_at_once(settings, tmp_path, split):
    for file in tmp_path.rglob("*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 9 files can be read; the last: .*\(.*\)"):
        opened(settings, split)[0]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("segmentation", "ellipses"),
        ("inpainting", "textures"),
        ("pose", "stick_figures"),
        ("inpainting", "image_folder"),
    ],
)
def test_what_needs_pillow_says_so_before_it_begins(monkeypatch, task, name):
    images.pillow.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=f"{name!r}: image files need Pillow: pip install"):
        open_data(Config(task=task, data=Data(name=name)), "test")


KINDS = {
    "four inks": (picture().convert("CMYK"), "x.jpg"),
    "16 bits": (
        Image.fromarray(np.asarray(picture().convert("L")).astype(np.uint16) * 257),
        "x.png",
    ),
    "a palette": (picture().quantize(16), "x.png"),
    "transparency": (picture().convert("RGBA"), "x.png"),
    "grey": (picture().convert("LA"), "x.png"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_read(tmp_path, kind):
    image, name = KINDS[kind]
    settings = inpainting(tmp_path)
    image.save(tmp_path / "test" / name)
    source = opened(settings, "test")
    example = source[[path.name for path in source.files].index(name)]
    assert example["valid"] == 1 and example["image"].std() > 1


def test_a_bomb_is_a_broken_file(tmp_path, monkeypatch, capfd):
    settings = inpainting(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    for side in (70, 100):  # the first Pillow warns of, the second it refuses
        Image.new("L", (side, side)).save(tmp_path / "test" / f"z{side}.png")
    source = opened(settings, "test")
    assert [source[i]["valid"] for i in range(len(source))].count(0) == 7
    assert capfd.readouterr().err.count("z70.png") == 1


@pytest.mark.parametrize("shape", [(20_000, 1), (1, 20_000), (1, 1), (3, 400)])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("distort", [False, True])
def test_a_strip_is_cut_before_it_is_enlarged(tmp_path, monkeypatch, shape, split, distort):
    (tmp_path / split).mkdir()
    Image.new("RGB", shape, "red").save(tmp_path / split / "a.png")
    sizes = []
    resize = Image.Image.resize

    def noted(image, size, *options):
        sizes.append(size)
        return resize(image, size, *options)

    monkeypatch.setattr(Image.Image, "resize", noted)
    settings = Data(name="image_folder", path=str(tmp_path), size=(64, 96))
    source = opened(settings, split, distort=distort)
    example = source[0]
    if split == "train":
        example = source.augment(example, np.random.default_rng(0))
    assert example["image"].shape == (64, 96, 3)
    assert sizes and max(max(size) for size in sizes) <= 16 * 96
