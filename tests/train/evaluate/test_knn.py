"""Classification by nearest neighbours among features."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from train.config import Config, Data
from train.data.arrays import Arrays
from train.errors import UserError
from train.evaluate import knn
from train.tasks import make_task


class Pixels(nnx.Module):
    """A network whose features are the image."""

    def features(self, x):
        return {"last": jnp.asarray(x).reshape(len(x), 1, 1, -1)}


def source(seed, count):
    """Noise around three directions, which the label counts."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 30, (count, 3, 1, 1), np.uint8)
    images[np.arange(count), labels] += 200
    return Arrays("toy", images, labels.astype(np.int32), 3, mean=(0.0,), std=(1.0,))


@pytest.fixture
def case(monkeypatch):
    train, test = source(0, 60), source(1, 30)
    monkeypatch.setattr(knn, "open_data", lambda *_: train)
    config = Config(data=Data(name="mnist5k"), eval_batch_size=8)
    return train, test, config, make_task(config, test)


@pytest.mark.parametrize("k", [1, 5, 60])
def test_neighbours_tell_classes_that_lie_apart(case, k):
    _, test, config, task = case
    assert knn.knn_accuracy(Pixels(), task, config, test, k) == 1.0


def test_labels_that_say_nothing_are_right_by_chance(case, monkeypatch):
    train, test, config, task = case
    shuffled = dataclasses.replace(train, labels=np.zeros(60, np.int32))
    monkeypatch.setattr(knn, "open_data", lambda *_: shuffled)
    share = np.mean(test.labels == 0)
    assert knn.knn_accuracy(Pixels(), task, config, test, 5) == pytest.approx(share)


def test_more_neighbours_than_examples_and_models_without_features_are_refused(case):
    _, test, config, task = case
    with pytest.raises(UserError, match="--knn is 61; the training set has 60 examples"):
        knn.knn_accuracy(Pixels(), task, config, test, 61)
    with pytest.raises(UserError, match="has no feature maps"):
        knn.knn_accuracy(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), task, config, test, 1)
