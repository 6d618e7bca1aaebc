# SPDX-License-Identifier: Apache-2.0
"""Classification of images and videos: one label an example."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import spectral_flax as sf
from spectral_flax.inference.images import normalized
from spectral_flax.models.record import Card
from train.config import Config, Data
from train.data import SOURCES, Source, Split, open_source
from train.data.files import Files
from train.errors import UserError
from train.task import Batch, Scalars, Task, TaskEntry
from train.tasks.classification.mixing import mix
from train.tasks.classification.options import Options

Metric = Callable[[jax.Array, jax.Array], jax.Array]
OWN_METRICS: dict[str, Metric] = {}
"""Metrics that users register: of float32 logits ``[N, K]`` and labels ``[N]``, a value each."""


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One label an image or clip: softmax cross-entropy, accuracies.

    Examples may hold several views, ``[N, V, ...]`` before the axes of ``image_shape``: the network
    sees each by itself, and logits are averaged, in training (Wang et al., "Temporal segment
    networks", ECCV 2016, section 3.1) and in evaluation.

    Attributes:
      confusion: also count, in evaluation, which class was taken for which.
    """

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Options = dataclasses.field(default_factory=Options)
    confusion: bool = False

    @classmethod
    def of(cls, config: Config, options: Options, source: Source) -> "Classification":
        """Build the task; files must be read in the order of channels that the card says."""
        if isinstance(source, Files):
            _check_channels(config)
        return cls(source.num_classes, source.image_shape, source.mean, source.std, options=options)

    @property
    def rows(self) -> tuple[str, ...]:
        return ("label", "predicted") if self.confusion else ()

    @property
    def model_options(self) -> dict[str, Any]:
        return {"num_classes": self.num_classes, "in_features": self.image_shape[-1]}

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def logits(
        self, model: nnx.Module, batch: Batch, *, views_at_once: int | None = None
    ) -> jax.Array:
        """Return float32 logits ``[N, num_classes]``, averaged over the views if there are any."""
        image = batch["image"]
        if image.ndim == 1 + len(self.image_shape):
            return self._network(model, image)
        count, views = image.shape[:2]
        together = views_at_once or views
        if views % together:
            raise UserError(
                f"--task-options.views-at-once is {together}; expected a divisor of the {views} "
                "views"
            )
        parts = image.reshape(count, views // together, together, *image.shape[2:])

        def total(part: jax.Array) -> jax.Array:  # of logits: [N, together, ...] -> [N, classes]
            logits = self._network(model, part.reshape(-1, *part.shape[2:]))
            return logits.reshape(count, together, -1).sum(1)

        if together == views:  # training too: the model may change its statistics
            return total(parts[:, 0]) / views
        return jax.lax.map(total, jnp.moveaxis(parts, 1, 0)).sum(0) / views

    def _network(self, model: nnx.Module, image: jax.Array) -> jax.Array:
        # Bytes travel to the device, floats are made there.
        return model(normalized(image, self.mean, self.std)).astype(jnp.float32)

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        target = jax.nn.one_hot(batch["label"], self.num_classes)
        target = optax.smooth_labels(target, self.options.label_smoothing)
        image = batch["image"]
        alphas = dict(mixup_alpha=self.options.mixup, cutmix_alpha=self.options.cutmix)
        if any(alphas.values()):
            image, target = mix(image.astype(jnp.float32), target, key, **alphas)
        logits = self.logits(model, batch | {"image": image})
        if self.options.loss == "bce":  # Wightman et al., "ResNet strikes back", 2021
            loss = optax.sigmoid_binary_cross_entropy(logits, target).sum(-1).mean()
        else:
            loss = optax.softmax_cross_entropy(logits, target).mean()
        return loss, {"accuracy": jnp.mean(logits.argmax(-1) == batch["label"])}

    def output(self, model: nnx.Module, batch: Batch) -> jax.Array:
        return self.logits(model, batch)

    def output_shape(self, batch_size: int) -> tuple[int, ...]:
        return batch_size, self.num_classes

    def metric_sums(self, model: nnx.Module, batch: Batch) -> Scalars:
        logits = self.logits(model, batch, views_at_once=self.options.views_at_once)
        label, valid = batch["label"], batch["valid"] > 0
        truth = jax.nn.one_hot(label, self.num_classes)
        members = jnp.where(valid[:, None], truth, 0)
        chosen = jax.nn.one_hot(logits.argmax(-1), self.num_classes)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        sums = {
            "valid": jnp.sum(valid.astype(jnp.float32)),
            "loss": jnp.sum(jnp.where(valid, loss, 0)),
            "count": members.sum(0),
            "correct": jnp.sum(members * chosen, 0),
            "correct_of_5": jnp.sum(members * _among_largest(logits, truth, 5), 0),
        }
        for name, metric in OWN_METRICS.items():
            sums[f"own.{name}"] = jnp.sum(jnp.where(valid, metric(logits, label), 0))
        if self.confusion:
            sums |= {"label": jnp.where(valid, label, -1), "predicted": logits.argmax(-1)}
        return sums

    def metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        count, correct = sums["count"], sums["correct"]
        if not sums["valid"]:
            raise UserError("none of the examples to evaluate on can be used")
        if count.sum() != sums["valid"]:
            raise UserError(
                f"{sums['valid'] - count.sum():.0f} of the examples have labels outside 0 to "
                f"{self.num_classes - 1}, the classes of the model"
            )
        present = count > 0
        return {
            "accuracy": float(correct.sum() / count.sum()),
            "top5_accuracy": float(sums["correct_of_5"].sum() / count.sum()),
            "mean_class_accuracy": float(np.mean(correct[present] / count[present])),
            "loss": float(sums["loss"] / count.sum()),
            **{name: float(sums[f"own.{name}"] / count.sum()) for name in OWN_METRICS},
        }

    def detailed(self) -> "Classification":
        return dataclasses.replace(self, confusion=True)

    def confusion_matrix(self, sums: dict[str, np.ndarray]) -> np.ndarray | None:
        if not self.confusion:
            return None
        matrix, seen = np.zeros((self.num_classes,) * 2, np.int64), sums["label"] >= 0
        np.add.at(matrix, (sums["label"][seen], sums["predicted"][seen]), 1)
        return matrix

    def scaled_by(self, card: Card) -> "Classification":
        channels = self.image_shape[-1]
        if len(card.mean) != channels:
            raise UserError(
                f"the model's card scales {len(card.mean)} channels; the images have {channels}"
            )
        return dataclasses.replace(self, mean=tuple(card.mean), std=tuple(card.std))


def _among_largest(logits: jax.Array, truth: jax.Array, k: int) -> jax.Array:
    """Say whether the true class has one of the ``k`` largest logits: ``[N, C] -> bool [N, 1]``.

    Of equal logits the first is the larger, as for argmax. By comparisons alone, since sorting is
    one of the operations that XLA gathers a batch for.
    """
    own = jnp.sum(jnp.where(truth > 0, logits, 0), -1, keepdims=True)
    index = jnp.arange(logits.shape[-1])[None]
    later = index > truth.argmax(-1)[:, None]
    smaller = (logits < own) | ((logits == own) & later)  # a NaN is never smaller
    return logits.shape[-1] - 1 - smaller.sum(-1, keepdims=True) < k


def _check_channels(config: Config) -> None:
    try:
        order = sf.card(config.model).channel_order.lower()
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.data.channels != order:
        raise UserError(
            f"--data.channels is {config.data.channels!r}; expected {order!r}, as the card of "
            f"{config.model!r} says; for another order register a model with a card of its own"
        )


def _open(split: Split, data: Data, options: Options) -> Source:
    return open_source(data.name, split, data)


CLASSIFICATION = TaskEntry(
    options=Options,
    make=Classification.of,
    data=SOURCES,
    open=_open,
    metrics={
        "accuracy": "max",
        "top5_accuracy": "max",
        "mean_class_accuracy": "max",
        "loss": "min",
    },
    may_change=("label_smoothing", "mixup", "cutmix", "views_at_once"),
)
