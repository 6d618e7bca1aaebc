# SPDX-License-Identifier: Apache-2.0
"""Training and testing of one small network on its tasks."""

import dataclasses
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from evidence.context.networks import NETWORKS
from evidence.context.tasks import LENGTHS, Examples, Task, contour
from spectral_flax.kernels.cpu import compiler_options

TESTED, TESTED_OF_LENGTH, AT_ONCE = 1024, 512, 64
LEARNING_RATE = 2e-2


@dataclasses.dataclass(frozen=True)
class Result:
    """What one network did on one task.

    Attributes:
      network, task, seed: which.
      accuracy: share of the test examples that it gets right.
      by_length: the same for contours of each length.
      loss: mean of the last tenth of the training.
      seconds: processor time of all steps but the first, which compiles.
    """

    network: str
    task: str
    seed: int
    accuracy: float
    by_length: dict[str, float]
    loss: float
    seconds: float


class Learner:
    """The compiled steps of one network, which its tasks and seeds share."""

    def __init__(self, name: str):
        self.name = name
        self.network = NETWORKS[name]
        self.graphdef = nnx.split(self.network.build(seed=0), nnx.Param, ...)[0]
        # The rate is an argument, so that tasks of different lengths share a program.
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(1e-4)
        )
        options = compiler_options()
        self._step = jax.jit(self._update, donate_argnums=(0, 1, 2), compiler_options=options)
        self._logits = jax.jit(self._evaluate, compiler_options=options)

    def learn(self, task: Task, seed: int, weights: Path | None = None) -> Result:
        """Train the network from new weights, test it, and write its weights to a file.

        Raises:
          ValueError: the loss is not finite.
        """
        model = self.network.build(seed)
        _, params, rest = nnx.split(model, nnx.Param, ...)
        state = self.optimizer.init(params)
        rates = optax.warmup_cosine_decay_schedule(0, LEARNING_RATE, task.steps // 10, task.steps)
        images, labels = task.examples("train", task.batch * task.steps, _draws(seed, "train"))
        losses = []
        for i in range(task.steps):
            if i == 1:
                jax.block_until_ready(params)
                begun = time.process_time()
            batch = slice(i * task.batch, (i + 1) * task.batch)
            params, rest, state, loss = self._step(
                params, rest, state, images[batch], labels[batch], rates(i)
            )
            losses.append(loss)
        loss = float(np.mean(losses[-max(1, task.steps // 10) :]))
        seconds = time.process_time() - begun
        if not np.isfinite(loss):
            raise ValueError(f"{self.name} on {task.name}: the loss is {loss}")
        if weights is not None:
            nnx.update(model, params, rest)
            save_weights(model, weights)
        right = functools.partial(self._accuracy, params, rest)
        draws = _draws(seed, "test")
        by_length = {}
        if task.examples is contour:
            for length in LENGTHS:
                by_length[str(length)] = right(contour("test", TESTED_OF_LENGTH, draws, (length,)))
        accuracy = right(task.examples("test", TESTED, draws))
        return Result(self.name, task.name, seed, accuracy, by_length, loss, seconds)

    def _update(self, params, rest, state, images, labels, rate):
        def loss(params):
            model = nnx.merge(self.graphdef, params, rest, copy=True)
            model.train()
            logits = model(scaled(images))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), nnx.split(model, nnx.Param, ...)[2]

        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = self.optimizer.update(gradient, state, params)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        return optax.apply_updates(params, updates), rest, state, value

    def _evaluate(self, params, rest, images):
        model = nnx.merge(self.graphdef, params, rest, copy=True)
        model.eval()
        return model(scaled(images))

    def _accuracy(self, params, rest, test: Examples) -> float:
        images, labels = test
        logits = [
            np.asarray(self._logits(params, rest, images[i : i + AT_ONCE]))
            for i in range(0, len(images), AT_ONCE)
        ]
        return float((np.concatenate(logits).argmax(-1) == labels).mean())


def scaled(images: jax.Array) -> jax.Array:
    """Return uint8 images as the networks take them."""
    return images.astype(jnp.float32) / 128 - 0.2


def save_weights(model: nnx.Module, path: Path) -> None:
    """Write parameters and running statistics by their paths to an ``.npz`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: np.asarray(v[...]) for name, v in _variables(model).items()})


def load_weights(model: nnx.Module, path: Path) -> None:
    """Give a model the weights that `save_weights` wrote."""
    with np.load(path) as file:
        for name, variable in _variables(model).items():
            variable[...] = jnp.asarray(file[name])


def _variables(model: nnx.Module) -> dict[str, nnx.Variable]:
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def _draws(seed: int, split: str) -> np.random.Generator:
    return np.random.default_rng([seed, split == "test"])
