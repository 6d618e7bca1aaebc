# SPDX-License-Identifier: Apache-2.0
"""What is learnt. A task is a value: its loss, its metrics and the shape of its batches."""

import dataclasses
import importlib
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from train.config import Config
from train.data import Source
from train.errors import UserError

Batch = dict[str, jax.Array]
Scalars = dict[str, jax.Array]


class Task(Protocol):
    """Hashable, so that the compiled step may close over it."""

    model_options: dict[str, Any]
    """What the data demand of the model's constructor."""

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the arrays in a training batch."""

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        """The mean loss of a batch and the scalars to log."""

    def metrics(self, model: nnx.Module, batch: Batch) -> Scalars:
        """Sums over the valid examples of a batch; they add up over batches."""

    def summary(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """The figures that the sums over the whole data set give."""


@dataclasses.dataclass(frozen=True)
class Classification:
    """One label an image: softmax cross-entropy, accuracy, mean class accuracy."""

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_smoothing: float = 0.0

    @property
    def model_options(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "in_features": self.image_shape[-1]}

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def logits(self, model: nnx.Module, batch: Batch) -> jax.Array:
        # Bytes travel to the device, floats are made there.
        image = batch["image"].astype(jnp.float32) / 255
        channels = (1,) * (image.ndim - 1) + (-1,)
        mean, std = (np.float32(v).reshape(channels) for v in (self.mean, self.std))
        return model((image - mean) / std).astype(jnp.float32)

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        logits = self.logits(model, batch)
        target = jax.nn.one_hot(batch["label"], self.num_classes)
        target = optax.smooth_labels(target, self.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, target).mean()
        return loss, {"accuracy": jnp.mean(logits.argmax(-1) == batch["label"])}

    def metrics(self, model: nnx.Module, batch: Batch) -> Scalars:
        logits, label, valid = self.logits(model, batch), batch["label"], batch["valid"]
        members = jax.nn.one_hot(label, self.num_classes) * valid[:, None]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return {
            "loss": jnp.sum(loss * valid),
            "count": members.sum(0),
            "correct": jnp.sum(members * (logits.argmax(-1) == label)[:, None], 0),
        }

    def summary(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        count, correct = sums["count"], sums["correct"]
        present = count > 0
        return {
            "accuracy": float(correct.sum() / count.sum()),
            "mean_class_accuracy": float(np.mean(correct[present] / count[present])),
            "loss": float(sums["loss"] / count.sum()),
        }


def make_task(config: Config, source: Source) -> Task:
    """Build the task that ``config`` names for the data of ``source``.

    Other tasks live in ``train/TASK/task.py``, which also says what their options are. A task may
    draw its results: ``picture(model, source, path)``, called when a run is done.
    """
    if config.task != "classification":
        module = importlib.import_module(f"train.{config.task}.task")
        try:
            return module.make(config, source)
        except (TypeError, ValueError) as error:
            raise UserError(f"the task {config.task!r}: {error}") from error
    if config.task_options:
        raise UserError(f"task_options={config.task_options}; classification has none")
    return Classification(
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        label_smoothing=config.label_smoothing,
    )
