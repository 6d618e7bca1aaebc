import io
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from train import data
from train.config import Config, Data
from train.data.images import ImageReader, to_rgb
from train.errors import UserError
from train.tasks import make_task

from .data_files import damage, image_folder, picture, tfds_set

SIZE = (16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Whole images; nobody writes here."""
    return image_folder(tmp_path_factory.mktemp("images"))


def settings(path, name="image_folder_classes", **changes):
    return Data(name=name, path=str(path), **{"size": SIZE, "prefetch": 2} | changes)


def opened(path, split="test", **changes):
    settings_ = settings(path, **changes)
    return data.open_source(settings_.name, split, settings_)


def epoch(source, batch_size=4, count=3, **changes):
    stream = data.training_batches(Config(batch_size=batch_size, data=Data(**changes)), source)
    found = [next(stream) for _ in range(count)]
    stream.close()
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


# What is listed


def test_folders_are_classes_in_the_order_of_their_names(folder):
    train, test = opened(folder, "train"), opened(folder)
    assert (len(train), len(test), train.num_classes) == (12, 6, 2)
    assert [test[i]["label"] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert test[0]["image"].shape == train.image_shape == (*SIZE, 3)
    assert repr(train) == repr(opened(folder, "train")) != repr(test)


def test_a_test_image_is_its_resized_centre(folder):
    with Image.open(folder / "val" / "ant" / "0.jpg") as image:
        scaled = image.resize((27, 18), Image.Resampling.BILINEAR)  # of 60 x 40
        wanted = np.asarray(scaled.crop((6, 1, 22, 17))).astype(int)
    found = opened(folder, resize=18)[0]["image"].astype(int)
    np.testing.assert_allclose(found, wanted, atol=1)


def test_ten_crops_are_an_axis_in_front(folder):
    source = opened(folder, views="ten_crops", test_size=(12, 14))
    assert source.image_shape == (12, 14, 3) and source[0]["image"].shape == (10, 12, 14, 3)


def test_an_epoch_of_files_holds_each_once_and_is_decided_by_the_seed(folder):
    source = opened(folder, "train", crop="centre", flip=False)
    first, second = epoch(source), epoch(source, batch_size=3, count=4)
    key = lambda images: sorted(image.tobytes() for image in images)
    assert len(set(key(first["image"]))) == 12
    assert key(first["image"]) == key(second["image"])
    random = opened(folder, "train")
    again = epoch(random)["image"]
    np.testing.assert_array_equal(epoch(random)["image"], again)


def test_csv_lists_and_text_lists_say_what_folders_say(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for split in ("train", "val"):
        files = sorted((tmp_path / split).rglob("*.jpg"))
        rows = [(file.relative_to(tmp_path), file.parent.name) for file in files]
        csv = ["extra,label,path", *(f"1,{label},{path}" for path, label in rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(csv))
    by_folder, by_list = opened(tmp_path), opened(tmp_path, name="image_list")
    assert by_list.num_classes == 2
    for i in range(6):
        np.testing.assert_array_equal(by_list[i]["image"], by_folder[i]["image"])
        assert by_list[i]["label"] == by_folder[i]["label"]
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").unlink()
        (tmp_path / f"{split}.txt").write_text("train/ant/0.jpg 3\n\ntrain/bee/1.jpg 0\n")
    numbered = opened(tmp_path, name="image_list")
    assert numbered.num_classes == 4 and [numbered[i]["label"] for i in range(2)] == [3, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\nval/ant/0.jpg,0\n", "no column path; its first line is 'file,label'"),
        ("path,label\nval/ant/0.jpg,0\nval/none.jpg,1\n", "1 missing file.*none.jpg"),
        ("path,label\nval/ant/0.jpg,2\n", "labels outside 0 ... 1: 2"),
        ("path,label\nval/ant/0.jpg,-1\n", "labels outside 0 ... 1: -1"),
        ("path,label\nval/ant/0.jpg,\n", "entry 1: expected a path and a label"),
        ("path,label\n", "is empty"),
        ("", "no column label nor path"),
    ],
)
def test_a_bad_list_is_refused(folder, tmp_path, content, message):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train.csv").write_text("path,label\ntrain/ant/0.jpg,0\ntrain/bee/0.jpg,1\n")
    (tmp_path / "val.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, name="image_list")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(path=None), "needs --data.path"),
        (dict(path="/nowhere"), "no folder '/nowhere'; expected train/CLASS/FILES"),
        (dict(num_classes=3), "num-classes is 3; .* has 2 folders"),
        (dict(mean=(0.5,)), r"data.mean is \(0.5,\); expected 3"),
        (dict(views="multi"), "for videos"),
        (dict(name="image_list"), "none of train.csv, train.txt; expected"),
        (dict(name="image_folder_clases"), "closest: image_folder_classes"),
        (dict(name="mnist5k", views="ten_crops"), "'mnist5k' has 'single' only"),
        (dict(name="mnist5k", num_classes=11), "'mnist5k' has 10"),
    ],
)
def test_what_the_data_cannot_give_is_refused(folder, change, message):
    settings_ = Data(**dict(name="image_folder_classes", path=str(folder), size=SIZE) | change)
    with pytest.raises(UserError, match=message):
        data.open_source(settings_.name, "test", settings_)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no train/"):
        opened(tmp_path)
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(UserError, match="has no val/ or test/"):
        opened(tmp_path)
    with pytest.raises(UserError, match="holds no files that end in"):
        opened(tmp_path, "train")
    (tmp_path / "test" / "wasp").mkdir(parents=True)
    with pytest.raises(UserError, match="classes that train/ lacks: wasp"):
        opened(tmp_path)


def test_mean_and_deviation_are_the_configs_or_imagenets_in_the_order_of_the_channels(folder):
    assert opened(folder).mean == (0.485, 0.456, 0.406)
    assert opened(folder, channels="bgr").mean == (0.406, 0.456, 0.485)
    assert opened(folder, channels="bgr", mean=(0.1, 0.2, 0.3)).mean == (0.1, 0.2, 0.3)
    np.testing.assert_array_equal(
        opened(folder, channels="bgr")[0]["image"][..., ::-1], opened(folder)[0]["image"]
    )


def test_another_order_of_channels_than_the_models_card_says_is_refused(folder):
    for channels, model in (("rgb", "resnet18"), ("bgr", "pose_resnet18")):
        source = opened(folder, channels=channels)
        make_task(Config(model=model, data=settings(folder, channels=channels)), source)
    with pytest.raises(UserError, match="channels is 'bgr'; expected 'rgb', as the card of 'res"):
        make_task(Config(model="resnet18", data=settings(folder, channels="bgr")), source)


# What cannot be read


def test_each_broken_file_is_named_once_and_the_epoch_is_whole(tmp_path, capfd):
    image_folder(tmp_path, train=8)
    broken = damage(tmp_path / "train" / "bee")
    source = opened(tmp_path, "train", workers=2)
    found = epoch(source, batch_size=7, count=6, workers=2, prefetch=2)  # two epochs
    said = capfd.readouterr().err
    assert set(source.unreadable.names()) == broken
    for name in broken:
        assert said.count(f"skipped, cannot be read: {name} ") == 1
    assert found["image"].min(axis=(1, 2, 3)).min() >= 0 and found["image"].shape[0] == 42
    assert found["image"].std(axis=(1, 2, 3)).min() > 1  # pictures, all of them
    again = epoch(source, batch_size=7, count=6)
    np.testing.assert_array_equal(found["image"], again["image"])
    assert capfd.readouterr().err == ""


def test_a_broken_test_file_does_not_count(tmp_path, capfd):
    image_folder(tmp_path)
    broken = damage(tmp_path / "val" / "bee")
    source = opened(tmp_path)
    batches = list(data.evaluation_batches(source, 4, Data(prefetch=1)))
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert (len(valid), valid.sum()) == (12, 6)
    assert capfd.readouterr().err.count("skipped") == len(broken) == 5


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_of_broken_files_alone_is_refused(tmp_path, split):
    image_folder(tmp_path, train=1, test=1)
    for file in (tmp_path / {"train": "train", "test": "val"}[split]).rglob("*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="none of 2 files can be read"):
        opened(tmp_path, split)


def test_the_list_of_broken_files_goes_with_its_maker(folder):
    source = opened(folder)
    log, copy = source.unreadable.log, pickle.loads(pickle.dumps(source))
    copy.unreadable.report("x.jpg", "reason")
    del copy
    assert source.unreadable.names() == ["x.jpg"]
    del source
    assert not log.exists()


# Kinds of images


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


RGB = picture()
GREY = RGB.convert("L")
DEEP = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
CLEAR = Image.merge("RGBA", (*RGB.split(), GREY))
FEW = RGB.quantize(16)

KINDS = {
    "grey": (GREY, "PNG", {}, GREY.convert("RGB")),
    "grey of 16 bits": (DEEP, "PNG", {}, GREY.convert("RGB")),
    "16 bits in TIFF": (DEEP, "TIFF", {}, GREY.convert("RGB")),
    "grey with transparency": (Image.merge("LA", (GREY, GREY)), "PNG", {}, GREY.convert("RGB")),
    "transparency": (CLEAR, "PNG", {}, RGB),
    "palette": (FEW, "PNG", {}, FEW.convert("RGB")),
    "palette with transparency": (FEW, "PNG", {"transparency": bytes(16)}, FEW.convert("RGB")),
    "two values": (GREY.convert("1"), "PNG", {}, GREY.convert("1").convert("RGB")),
    "four inks": (RGB.convert("CMYK"), "TIFF", {}, RGB),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_becomes_rgb(name):
    image, kind, options, wanted = KINDS[name]
    with Image.open(encoded(image, kind, **options)) as file:
        found = to_rgb(file)
    assert found.mode == "RGB"
    np.testing.assert_array_equal(found, wanted)


def test_four_inks_in_jpeg_become_the_colours_they_print(folder):
    with Image.open(encoded(RGB.convert("CMYK"), "JPEG", quality=95)) as file:
        found = np.asarray(to_rgb(file)).astype(int)
    assert abs(found - np.asarray(RGB)).mean() < 3


def test_values_without_a_known_range_are_not_guessed():
    with pytest.raises(ValueError, match="floating point"):
        to_rgb(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match="expected 16 bits"):
        to_rgb(Image.fromarray(np.array([[70000]], np.int32)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_are_turned_upright(folder, orientation, split):
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = RGB if back is None else RGB.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(stored, "PNG", exif=exif)
    reader = opened(folder, split, size=(40, 60), crop="centre", flip=False, resize=40).reader
    np.testing.assert_array_equal(reader(file, np.random.default_rng(0)), RGB)


def test_a_large_jpeg_is_decoded_coarsely_and_still_looks_the_same(folder, monkeypatch):
    large = encoded(picture(height=640, width=800), "JPEG", quality=95)
    reader = opened(folder, "train", size=(32, 32), crop="centre", flip=False).reader
    coarse = reader(large, np.random.default_rng(0)).astype(int)
    monkeypatch.setattr(ImageReader, "_draft", lambda *_: None)
    whole = reader(large, np.random.default_rng(0)).astype(int)
    assert 0 < abs(coarse - whole).max() < 12 and abs(coarse - whole).mean() < 1.5


# TensorFlow Datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tfds_set(tmp_path_factory.mktemp("tfds"))


def test_a_set_of_tensorflow_datasets_is_read_without_tensorflow(prepared):
    train, test = (opened(prepared, split, name="tfds:tiny") for split in ("train", "test"))
    assert (len(train), len(test), train.num_classes) == (6, 3, 3)
    assert [test[i]["label"] for i in range(3)] == [0, 1, 2]
    reader = opened(prepared, name="tfds:tiny").reader
    np.testing.assert_array_equal(test[1]["image"], reader(encoded(picture(51), "JPEG"), None))
    assert sorted(epoch(train, batch_size=6, count=1)["label"]) == [0, 0, 1, 1, 2, 2]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["imagenet2012", "tfds:no_such_set"])
def test_a_set_that_is_not_prepared_says_the_command(tmp_path, name):
    command = f"tfds build {name.removeprefix('tfds:')} --file_format=array_record"
    with pytest.raises(UserError, match=f"{command} --data_dir={tmp_path}"):
        opened(tmp_path, name=name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"fileFormat": "array_record"', '"fileFormat": "tfrecord"', "in the format tfrecord"),
        ('"name": "test"', '"name": "extra"', "expected validation or test"),
    ],
)
def test_a_set_prepared_otherwise_is_refused(prepared, tmp_path, old, new, message):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    text = info.read_text()
    assert old in text
    info.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        opened(tmp_path, name="tfds:tiny")


def test_a_set_of_another_number_of_classes_is_refused(prepared):
    with pytest.raises(UserError, match="num-classes is 4; 'tiny' has 3"):
        opened(prepared, name="tfds:tiny", num_classes=4)
