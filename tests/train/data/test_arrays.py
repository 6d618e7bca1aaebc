import io
import itertools
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from train import data
from train.config import Config, Data
from train.data import npz_file
from train.errors import UserError


def opened(name, split="train", **changes):
    return data.open_source(name, split, Data(name=name, **changes))


# Moving digits


def test_moving_digits_are_digits_that_move_in_one_of_four_directions():
    source = opened("moving_digits", "test")
    assert (len(source), source.num_classes, source.image_shape) == (1000, 40, (8, 32, 32, 1))
    still = data.mnist5k("test")
    seen = set()
    for i in range(200):
        example = source[i]
        digit, direction = divmod(int(example["label"]), 4)
        assert digit == still.labels[i]
        clip = example["image"][..., 0]
        step = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)][direction])
        moved = [
            speed
            for speed in (1, 2, 3)
            if all(
                np.array_equal(np.roll(a, speed * step, (0, 1)), b)
                for a, b in itertools.pairwise(clip)
            )
        ]
        assert len(moved) == 1
        seen.add((direction, *moved))
    assert len(seen) == 12


def test_the_place_of_a_digit_says_nothing_about_its_direction():
    # So a clip played backwards is as likely as that of the opposite direction, which it equals.
    source = opened("moving_digits", frames=1)
    examples = [source[i] for i in range(len(source))]
    directions = np.array([example["label"] % 4 for example in examples])
    np.testing.assert_allclose(np.bincount(directions) / len(source), 0.25, atol=0.03)
    images = np.array([example["image"][0, ..., 0] for example in examples], float)
    for direction in range(4):
        for axis in (1, 2):  # one column of 1000 clips deviates by 3.5 % (one sigma)
            profile = images[directions == direction].sum((0, axis))
            np.testing.assert_allclose(profile / profile.mean(), 1, atol=0.15)


def test_moving_digits_are_the_same_every_time_and_start_elsewhere_in_training():
    source = opened("moving_digits", frames=4, size=(30, 40))
    assert source.image_shape == (4, 30, 40, 1)
    np.testing.assert_array_equal(source[5]["image"], source[5]["image"])
    example = source[5]
    varied = source.augment(example, np.random.default_rng(0))
    assert varied["label"] == example["label"]
    assert not np.array_equal(varied["image"], example["image"])
    assert any(
        np.array_equal(np.roll(varied["image"], (i, j), (1, 2)), example["image"])
        for i in range(30)
        for j in range(40)
    )


def test_splits_of_moving_digits_differ():
    train, test = opened("moving_digits"), opened("moving_digits", "test")
    assert not set(map(bytes, train.digits)) & set(map(bytes, test.digits))


def test_a_frame_smaller_than_a_digit_is_refused():
    with pytest.raises(UserError, match=r"data.size is \(20, 32\)"):
        opened("moving_digits", size=(20, 32))


# Packed


def pack(folder, images, labels, split="train"):
    np.savez(folder / f"{split}.npz", images=images, labels=labels)


@pytest.mark.parametrize("shape", [(6, 8, 9, 3), (6, 2, 8, 9, 1)])
def test_packed_arrays_come_back(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.array([0, 4, 2, 1, 3, 0])
    pack(tmp_path, images, labels)
    pack(tmp_path, images[:3], labels[:3] % 4, "test")
    train, test = (opened("packed", split, path=str(tmp_path)) for split in ("train", "test"))
    assert train.num_classes == test.num_classes == 5 and len(test) == 3
    assert train.image_shape == shape[1:] and len(train.mean) == shape[-1]
    np.testing.assert_array_equal(train[1]["image"], images[1])
    assert train[1]["label"] == 4


def test_packed_images_are_mirrored_where_asked(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    pack(tmp_path, images, np.arange(20))
    config = Config(batch_size=20, data=Data(shift=0, flip=True))
    stream = data.training_batches(config, opened("packed", path=str(tmp_path)))
    batch = next(stream)
    plain = images[batch["label"]]
    same = np.all(batch["image"] == plain, axis=(1, 2, 3))
    mirrored = np.all(batch["image"] == plain[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(same ^ mirrored) and 0 < same.sum() < 20


GOOD = np.zeros((4, 2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(images=GOOD), "no array labels"),
        (dict(images=GOOD.astype(np.float32), labels=np.arange(4)), "images .* are float32"),
        (dict(images=GOOD[0], labels=np.arange(2)), "expected uint8"),
        (dict(images=GOOD, labels=np.arange(3)), "expected 4 integers"),
        (dict(images=GOOD, labels=np.arange(4) / 2), "labels .* are float64"),
        (dict(images=GOOD, labels=np.arange(4) - 1), "labels from -1 to 2"),
    ],
)
def test_packed_files_that_make_no_sense_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(UserError, match=message):
        opened("packed", path=str(tmp_path))


def test_packed_files_that_are_not_there_or_not_whole_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        opened("packed", path=str(tmp_path))
    (tmp_path / "train.npz").write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="cannot be read"):
        opened("packed", path=str(tmp_path))
    with pytest.raises(UserError, match="needs --data"):
        opened("packed")


def entry(header, data=b"", version=1):
    """An array's file with a header of one's own."""
    header = header if isinstance(header, bytes) else repr(header).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + data


def archive(path, kind=zipfile.ZIP_DEFLATED, **entries):
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in entries.items():
            file.writestr(f"{name}.npy", content)
    return path.read_bytes()


def whole(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


WHOLE = whole(images=np.full((4, 9, 9, 3), 7, np.uint8), labels=np.arange(4))
HEADER = {"descr": "|u1", "fortran_order": False, "shape": (4, 2, 2, 3)}
DEEP = b"{'descr': " + b"(" * 4000 + b"1" + b")" * 4000 + b"}"
HOSTILE = {
    "nothing": b"",
    "text": b"images and labels",
    "one array": entry(HEADER, bytes(48)),
    "cut": WHOLE[: len(WHOLE) // 2],
    "cut in the table": WHOLE[:-10],
    "without its beginning": WHOLE[100:],
    "a changed byte": WHOLE.replace(b"\7" * 9, b"\7" * 8 + b"\6", 1),
    "objects": whole(images=np.array([{}, {}]), labels=np.arange(2)),
}
ENTRIES = {
    "27 TiB": entry(HEADER | {"shape": (10_000_000, 1000, 1000, 3)}, bytes(48)),
    "a negative side": entry(HEADER | {"shape": (-4, 2, 2, -3)}, bytes(48)),
    "a shape of text": entry(HEADER | {"shape": "4"}, bytes(48)),
    "a shape of truth": entry(HEADER | {"shape": (True, 2, 2, 3)}, bytes(48)),
    "a shape without end": entry(HEADER | {"shape": (10**300, 2)}, bytes(48)),
    "a type of text": entry(HEADER | {"descr": "what"}, bytes(48)),
    "objects": entry(HEADER | {"descr": "|O"}, bytes(48)),
    "less than it says": entry(HEADER, bytes(47)),
    "more than it says": entry(HEADER, bytes(49)),
    "a header of a list": entry([1], bytes(48)),
    "a header of code": entry(b"__import__('os').getcwd()\n", bytes(48)),
    "a deep header": entry(DEEP, bytes(48)),
    "another version": entry(HEADER, bytes(48), version=9),
    "no header": b"",
    "long names": entry(HEADER | {"descr": [("x" * 9000, "|u1")]}, bytes(48)),
}


@pytest.mark.parametrize("name", [*HOSTILE, *(f"an array of {name}" for name in ENTRIES)])
def test_a_file_that_holds_no_arrays_is_refused_in_one_short_line(tmp_path, name):
    path = tmp_path / "train.npz"
    if name in HOSTILE:
        path.write_bytes(HOSTILE[name])
    else:
        labels = entry(HEADER | {"descr": "<i4", "shape": (4,)}, bytes(16))
        archive(path, images=ENTRIES[name.removeprefix("an array of ")], labels=labels)
    with pytest.raises(UserError, match=r"train\.npz") as error:
        opened("packed", path=str(tmp_path))
    assert str(error.value).isprintable() and len(str(error.value)) < 700


def test_an_array_that_grows_out_of_all_proportion_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_file, "FREE", 2**20)
    images = entry(HEADER | {"shape": (1, 4000, 4000, 1)}, bytes(16_000_000))
    archive(tmp_path / "train.npz", images=images, labels=images)
    del images
    tracemalloc.start()
    with pytest.raises(UserError, match=r"grows to 16000000 bytes"):
        opened("packed", path=str(tmp_path))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_numpy_does_not_use_is_refused(tmp_path, kind):
    labels = entry(HEADER | {"descr": "<i4", "shape": (4,)}, bytes(16))
    archive(tmp_path / "train.npz", kind, images=entry(HEADER, bytes(48)), labels=labels)
    with pytest.raises(UserError, match="in a way that NumPy does not use"):
        opened("packed", path=str(tmp_path))


def test_compressed_and_transposed_arrays_are_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 6), np.uint8).transpose(3, 2, 1, 0)
    np.savez_compressed(tmp_path / "train.npz", images=images, labels=np.arange(6, dtype=">u2"))
    source = opened("packed", path=str(tmp_path))
    for i in range(6):
        np.testing.assert_array_equal(source[i]["image"], images[i])
        assert source[i]["label"] == i


def test_a_label_beyond_any_count_of_classes_is_refused(tmp_path):
    pack(tmp_path, GOOD, np.array([0, 1, 2, 2**63], np.uint64))
    with pytest.raises(UserError, match="too large for a class"):
        opened("packed", path=str(tmp_path))


# Made up


@pytest.mark.parametrize(
    ("name", "changes", "shape"),
    [
        ("synthetic_images", {}, (224, 224, 3)),
        ("synthetic_videos", dict(size=(8, 8), frames=4), (4, 8, 8, 3)),
        ("synthetic_videos", dict(size=(8, 8), frames=4, segments=3), (3, 4, 8, 8, 3)),
    ],
)
def test_synthetic_examples_cost_nothing(name, changes, shape):
    source = opened(name, **changes)
    example = source[17]
    assert example["image"].shape == source.image_shape == shape
    assert np.shares_memory(example["image"], source.images)
    assert 0 <= example["label"] < source.num_classes
    assert len(source) == 50_000 and source[33]["label"] != example["label"]
