# SPDX-License-Identifier: Apache-2.0
"""Classification by the nearest training examples in the space of a network's features."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.inference.images import normalized
from spectral_flax.kernels.cpu import compiler_options
from spectral_flax.layers.modes import evaluation_mode
from train.config import Config
from train.data import Source, evaluation_batches
from train.data.files import Files
from train.errors import UserError
from train.tasks import open_data
from train.tasks.classification.task import Classification

TEMPERATURE = 0.07


def knn_accuracy(
    model: nnx.Module, task: Classification, config: Config, test: Source, k: int
) -> float:
    """Return the share of test examples that their ``k`` nearest training examples tell right.

    Features are the means of the last map, of length one. A neighbour of similarity s votes for its
    class with weight exp(s / 0.07). Wu et al., "Unsupervised feature learning via non-parametric
    instance discrimination", CVPR 2018, section 3.4.

    Raises:
      UserError: the model has no feature maps, or ``k`` is larger than the training set.
    """
    if not hasattr(model, "features"):
        raise UserError(f"--knn {k}: {config.model} has no feature maps")
    train = open_data(config, "train")
    if isinstance(train, Files):  # read as in a test
        train = dataclasses.replace(train, train=False, reader=test.reader)
    if k > len(train):
        raise UserError(f"--knn is {k}; the training set has {len(train)} examples")
    pooled = _pooled(model, task)
    bank, labels = _features(pooled, train, config)
    found, truth = _features(pooled, test, config)
    votes = np.eye(task.num_classes, dtype=np.float32)[labels]
    right = 0
    for start in range(0, len(found), 256):
        similarity = found[start : start + 256] @ bank.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(similarity, nearest, 1) / TEMPERATURE)
        chosen = (weights[..., None] * votes[nearest]).sum(1).argmax(1)
        right += int((chosen == truth[start : start + 256]).sum())
    return right / len(found)


def _pooled(model: nnx.Module, task: Classification) -> Callable[[np.ndarray], jax.Array]:
    """Return the compiled function from images to features, means over views too."""
    graphdef, state = nnx.split(evaluation_mode(model))

    def pooled(state, image):
        views = image.reshape(-1, *task.image_shape)
        maps = nnx.merge(graphdef, state).features(normalized(views, task.mean, task.std))
        last = list(maps.values())[-1].astype(jnp.float32)
        means = last.mean(tuple(range(1, last.ndim - 1)))
        means = means.reshape(len(image), -1, means.shape[-1]).mean(1)
        return means / jnp.linalg.norm(means, axis=-1, keepdims=True)

    compiled = jax.jit(pooled, compiler_options=compiler_options())
    return lambda image: compiled(state, image)


def _features(
    pooled: Callable[[np.ndarray], jax.Array], source: Source, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of all examples that can be read."""

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in evaluation_batches(source, config.eval_batch_size, config.data):
            there = batch["valid"] > 0
            yield np.asarray(pooled(batch["image"]))[there], batch["label"][there]

    features, labels = zip(*parts(), strict=True)
    return np.concatenate(features), np.concatenate(labels)
