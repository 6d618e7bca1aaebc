"""What processes compare of their config and their data."""

import dataclasses

import numpy as np
import pytest

from train.config import Data, Optimizer, Processes
from train.data import mnist5k
from train.run import agreement
from train.run.agreement import agree_on_command, described
from train.tasks import open_data


@pytest.fixture
def facts(monkeypatch):
    """Return a function from a call to the facts that it compares."""
    seen = {}
    monkeypatch.setattr(agreement.jax, "process_count", lambda: 2)
    monkeypatch.setattr(agreement, "agree", lambda facts, remedy: seen.update(facts))

    def of(call, *arguments):
        seen.clear()
        call(*arguments)
        return dict(seen)

    return of


def test_programs_and_options_are_compared_but_for_what_a_process_has_of_its_own(toy, facts):
    config = toy()
    base = facts(agree_on_command, config)
    assert base["--seed"] == "0" and "--optimizer.learning-rate" in base
    assert {"jax", "the checksum of train", "the checksum of spectral_flax"} <= base.keys()
    own = dataclasses.replace(config, workdir="elsewhere", processes=Processes(index=3))
    assert facts(agree_on_command, own) == base
    other = dataclasses.replace(config, optimizer=Optimizer(learning_rate=0.3))
    assert facts(agree_on_command, other) != base


def test_a_set_is_described_by_its_number_and_its_examples():
    source = mnist5k("train")
    told = described(source)
    assert told.startswith("4000 examples") and described(mnist5k("train")) == told
    changed = source.images.copy()
    changed[0, 3, 3] ^= 1
    for name, value in (
        ("images", changed),
        ("labels", np.roll(source.labels, 1)),
        ("images", source.images[:-1]),
    ):
        assert described(dataclasses.replace(source, **{name: value})) != told


def test_a_folder_is_described_by_its_files(toy, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(3):
                colour = (40 * i, 80, 90)
                pillow.new("RGB", (20, 20), colour).save(tmp_path / split / label / f"{i}.png")
    config = toy(data=Data(name="image_folder_classes", path=str(tmp_path), size=(16, 16)))
    told = described(open_data(config, "train"))
    assert described(open_data(config, "train")) == told
    file = tmp_path / "train" / "b" / "2.png"
    whole = file.read_bytes()
    for change in (lambda: file.write_bytes(whole[:-9]), file.unlink):  # half of it, none of it
        change()
        assert described(open_data(config, "train")) != told
