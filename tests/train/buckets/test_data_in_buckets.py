"""A data set in a bucket is what it is on a disk."""

import pickle

import numpy as np
import pytest

from spectral_flax import buckets
from spectral_flax.files import any_path
from train import data
from train.config import Data
from train.data import shard_cache
from train.data.unreadable import UnreadableFiles
from train.errors import UserError
from train.tasks.inpainting.data import Photographs
from train.tasks.segmentation.data import SOURCES as SEGMENTED
from train.tasks.segmentation.data import Folders

from ..data.data_files import image_folder, picture, tfds_set, video


def packed(root):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images, labels = rng.integers(0, 256, (4, 8, 8, 1), np.uint8), np.arange(4)
        np.savez(root / f"{split}.npz", images=images, labels=labels)


def lists(root, suffix=".jpg"):
    for split in ("train", "val"):
        names = [f"files/{split}{i}{suffix}" for i in range(3)]
        rows = [f"{name},{i % 2}" for i, name in enumerate(names)]
        (root / f"{split}.csv").write_text("\n".join(["path,label", *rows]))
        for i, name in enumerate(names):
            (root / name).parent.mkdir(exist_ok=True)
            video(root / name, 8) if suffix == ".mp4" else picture(i).save(root / name)


SETS = {
    "image_folder_classes": lambda root: image_folder(root, train=2, test=2),
    "image_list": lists,
    "video_list": lambda root: lists(root, ".mp4"),
    "packed": packed,
    "tfds:tiny": tfds_set,
}


@pytest.mark.parametrize("name", SETS)
def test_examples_are_those_of_a_disk(name, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_FLAX_CACHE", str(tmp_path / "cache"))
    local = tmp_path / "set"
    local.mkdir()
    SETS[name](local)
    buckets.send(local, any_path(bucket[0]))
    settings = dict(name=name, size=None if name == "packed" else (16, 16), frames=4, stride=1)
    for split in ("train", "test"):
        here, there = (
            data.open_source(name, split, Data(path=str(path), **settings))
            for path in (local, bucket[0])
        )
        there = pickle.loads(pickle.dumps(there))  # as it is sent to workers
        assert len(here) == len(there) and here.class_names == there.class_names
        for i in range(len(here)):
            example, other = here[i], there[i]
            if here.augment and "index" in example:
                draw = lambda s, e: s.augment(e, np.random.default_rng(i))  # noqa: B023
                example, other = draw(here, example), draw(there, other)
            for key in example:
                np.testing.assert_array_equal(example[key], other[key])


def test_images_of_other_tasks_are_those_of_a_disk(bucket, tmp_path):
    for part in ("train/images", "train/masks"):
        (tmp_path / part).mkdir(parents=True)
    for i in range(2):
        picture(i).save(tmp_path / "train/images" / f"{i}.png")
        picture(i).convert("L").point(lambda v: 255 * (v > 128)).save(
            tmp_path / "train/masks" / f"{i}.png"
        )
    buckets.send(tmp_path / "train", any_path(bucket[0]) / "train")
    settings = dict(name="image_mask_folders", size=(16, 16))
    sets = [
        SEGMENTED["image_mask_folders"]("train", Data(path=str(path), **settings))
        for path in (tmp_path, bucket[0])
    ]
    assert isinstance(sets[0], Folders)
    folders = tmp_path / "train", any_path(bucket[0]) / "train"
    photographs = [Photographs(folder, "train", (16, 16), None) for folder in folders]
    for here, there in (sets, photographs):
        assert len(here) == len(there)
        for i in range(len(here)):
            np.testing.assert_array_equal(here[i]["image"], there[i]["image"])


def test_a_set_half_uploaded_or_larger_than_the_cache_is_refused(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_FLAX_CACHE", str(tmp_path / "cache"))
    tfds_set(tmp_path)
    buckets.send(tmp_path / "tiny", any_path(bucket[0]) / "tiny")
    small = Data(name="tfds:tiny", path=bucket[0], cache_gib=1e-9)
    with pytest.raises(UserError, match=r"tiny/test takes 0.0 GiB; --data.cache-gib is 1e-09"):
        data.open_source("tfds:tiny", "test", small)
    shard = next(path for path in (bucket[1]).rglob("*array_record*") if "test" in path.name)
    (any_path(bucket[0]) / "tiny" / "1.0.0" / shard.name).unlink()
    with pytest.raises(UserError, match=r"1 of 1 files are not in gs.*copy the whole data set"):
        data.open_source("tfds:tiny", "test", Data(name="tfds:tiny", path=bucket[0]))


def test_the_cache_keeps_within_its_bound_what_was_used_last(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_FLAX_CACHE", str(tmp_path))
    folder = any_path(bucket[0])
    for name in "abc":
        buckets.write_bytes(folder / name, name.encode() * 100)
    there = buckets.listed(folder)
    copy = lambda name: shard_cache.cached(folder / name, there[name], limit=250)
    first, second = copy("a"), copy("b")
    shard_cache.os.utime(second, (0, 0))
    third = copy("c")
    assert first.read_bytes() == b"a" * 100 and third.read_bytes() == b"c" * 100
    assert not second.exists()
    assert copy("b").read_bytes() == b"b" * 100


def test_a_bucket_that_does_not_answer_is_no_unreadable_file():
    def load():
        raise buckets.NoAnswerError("gs://b/x: the bucket does not answer")

    with pytest.raises(UserError, match="does not answer, for 300 s; the same command goes on"):
        UnreadableFiles().read("gs://b/x", load)
