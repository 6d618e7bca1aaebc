import dataclasses

import jax
import numpy as np
import pytest

from train import data
from train.command.checks import check
from train.config import Config, Data
from train.errors import UserError

TRAIN = data.mnist5k("train")


def batches(**changes):
    settings = Config(batch_size=100, data=Data(prefetch=2))
    return data.training_batches(dataclasses.replace(settings, **changes), TRAIN)


def test_the_embedded_digits_are_split_without_overlap():
    test = data.mnist5k("test")
    assert (len(TRAIN), len(test), TRAIN.image_shape) == (4000, 1000, (28, 28, 1))
    assert sorted(np.unique(test.labels)) == list(range(10))
    seen = {image.tobytes() for image in TRAIN.images}
    assert sum(image.tobytes() in seen for image in test.images) == 0


def test_the_source_states_its_own_mean_and_deviation():
    images = TRAIN.images / 255
    np.testing.assert_allclose(images.mean(), TRAIN.mean[0], atol=0.01)
    np.testing.assert_allclose(images.std(), TRAIN.std[0], atol=0.01)


def test_an_epoch_holds_every_example_once():
    stream = batches(data=Data(shift=0, prefetch=2))
    images = np.concatenate([next(stream)["image"] for _ in range(40)])
    key = lambda images: sorted(image.tobytes() for image in images)
    assert key(images) == key(TRAIN.images)


def test_epochs_differ_in_order():
    stream = batches()
    labels = [next(stream)["label"] for _ in range(80)]
    assert not np.array_equal(labels[0], labels[40])


def test_the_seed_decides_order_and_augmentation():
    first, again, other = (next(batches(seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert not np.array_equal(first["label"], other["label"])


def test_a_restored_position_gives_the_same_batches():
    stream, resumed = batches(), batches()
    for _ in range(45):  # beyond the first epoch
        next(stream)
    resumed.set_state(stream.get_state())
    for _ in range(3):
        a, b = next(stream), next(resumed)
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


def test_reading_ahead_changes_no_batch():
    plain, begun = batches(), batches()
    begun.begin()
    for _ in range(2):
        np.testing.assert_array_equal(next(begun)["image"], next(plain)["image"])
    begun.close()
    begun.begin()  # where it stopped
    begun.begin()
    np.testing.assert_array_equal(next(begun)["image"], next(plain)["image"])
    assert begun.get_state() == {"next_index": 3}


def test_a_fault_in_what_is_read_ahead_is_for_whoever_takes_it():
    def gone(example):
        raise OSError("the disk is gone")

    stream = batches()
    stream.batches = stream.batches.map(gone)
    stream.begin()
    with pytest.raises(OSError, match="gone"):
        next(stream)


def test_worker_processes_change_neither_batches_nor_positions():
    plain, worked = batches(), batches(data=Data(workers=2, prefetch=4))
    for _ in range(3):
        a, b = next(plain), next(worked)
        np.testing.assert_array_equal(a["image"], b["image"])
    assert worked.get_state() == plain.get_state() == {"next_index": 3}
    worked.close()
    resumed = batches()  # without workers
    resumed.set_state(worked.get_state())
    np.testing.assert_array_equal(next(resumed)["image"], next(plain)["image"])


@pytest.mark.parametrize(
    ("shape", "count"), [((28, 28, 1), 64), ((224, 224, 3), 13), ((10, 512, 512, 3), 2)]
)
def test_few_large_batches_are_kept_ready_and_many_small_ones(shape, count):
    config = Config(batch_size=256, data=Data(name="synthetic_images"))
    source = dataclasses.replace(data.open_source("synthetic_images", "test"), image_shape=shape)
    assert data.training_batches(config, source).ahead == count


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_batch_that_one_would_see(monkeypatch, count):
    alone = next(batches())
    monkeypatch.setattr(jax, "process_count", lambda: count)
    parts = []
    for index in range(count):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(next(batches()))
    for name in ("image", "label"):
        together = np.stack([part[name] for part in parts], 1).reshape(alone[name].shape)
        np.testing.assert_array_equal(together, alone[name])


@pytest.mark.parametrize("pixels", [1, 3])
def test_a_random_shift_moves_the_image_and_fills_with_black(pixels):
    image = np.random.default_rng(0).integers(1, 255, (6, 7, 2), dtype=np.uint8)
    shifted = data.RandomShift(pixels)({"image": image, "label": 3}, np.random.default_rng(1))
    assert shifted["label"] == 3 and shifted["image"].shape == image.shape
    frame = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
    windows = [
        frame[i : i + 6, j : j + 7] for i in range(2 * pixels + 1) for j in range(2 * pixels + 1)
    ]
    assert any(np.array_equal(window, shifted["image"]) for window in windows)


@pytest.mark.parametrize("batch_size", [250, 300, 999, 1000])
def test_evaluation_counts_every_example_once(batch_size):
    source = data.mnist5k("test")
    found = list(data.evaluation_batches(source, batch_size))
    assert {len(batch["image"]) for batch in found} == {batch_size}
    valid = np.concatenate([batch["valid"] for batch in found]) > 0
    labels = np.concatenate([batch["label"] for batch in found])
    np.testing.assert_array_equal(labels[valid], source.labels)


def test_an_unknown_data_set_names_its_neighbour():
    with pytest.raises(UserError, match="'mnist'; closest: mnist5k"):
        data.open_source("mnist", "train")


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="batch-size is 4001; the data set has 4000"):
        batches(batch_size=4001)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(scale=(0.5, 0.1)), r"data.scale is \(0.5, 0.1\); expected least, greatest"),
        (dict(scale=(0.5, 1.5)), "expected at most 1"),
        (dict(crop="center"), "data.crop is 'center'; expected one of random_resized, multi_scale"),
        (dict(colour_jitter=(0.4, 0.4, 0.4, 0.6)), r"at most 0.5 \(value 4 of 4\)"),
        (dict(size=(0, 32)), r"data.size is \(0, 32\); expected positive"),
        (dict(std=(0.2, 0.0, 0.2)), "data.std"),
        (dict(workers=-1), "data.workers is -1"),
        (dict(prefetch=0), "data.prefetch is 0"),
        (dict(test_crops=2), "data.test-crops is 2; expected one of 1, 3"),
        (dict(magnitude=31), "in .0, 30."),
    ],
)
def test_values_without_sense_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        check(Config(data=Data(**change)))
