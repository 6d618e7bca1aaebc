# SPDX-License-Identifier: Apache-2.0
"""Segmentation: a class for every pixel, by cross-entropy and Dice."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from spectral_flax.inference.images import normalized
from spectral_flax.inference.segmentation import overlay
from train.config import Config
from train.data import Source
from train.task import Batch, Scalars, Task, TaskEntry
from train.tasks.segmentation.data import SOURCES, open_split
from train.tasks.segmentation.metrics import segmentation_metrics
from train.tasks.segmentation.options import Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(Task):
    """A class for every pixel; the loss is the weighted sum of cross-entropy and Dice loss."""

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Options = dataclasses.field(default_factory=Options)

    @property
    def model_options(self) -> dict[str, Any]:
        size = {"input_size": self.image_shape[:2]}
        return {"num_classes": self.num_classes, "in_features": self.image_shape[-1]} | size

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8),
            "mask": jax.ShapeDtypeStruct((batch_size, *self.image_shape[:2]), jnp.int32),
        }

    def logits(self, model: nnx.Module, image: jax.Array) -> jax.Array:
        return model(normalized(image, self.mean, self.std)).astype(jnp.float32)

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        logits = self.logits(model, batch["image"])
        members = jax.nn.one_hot(batch["mask"], self.num_classes)
        entropy = optax.softmax_cross_entropy(logits, members).mean()
        dice = dice_loss(jax.nn.softmax(logits), members)
        accuracy = jnp.mean(logits.argmax(-1) == batch["mask"])
        return self.options.cross_entropy * entropy + self.options.dice * dice, {
            "accuracy": accuracy,
            "cross_entropy": entropy,
            "dice": dice,
        }

    def output(self, model: nnx.Module, batch: Batch) -> jax.Array:
        return self.logits(model, batch["image"])

    def output_shape(self, batch_size: int) -> tuple[int, ...]:
        return batch_size, *self.image_shape[:2], self.num_classes

    def metric_sums(self, model: nnx.Module, batch: Batch) -> Scalars:
        predicted = self.logits(model, batch["image"]).argmax(-1)
        classes = self.num_classes
        truth = jax.nn.one_hot(batch["mask"], classes) * batch["valid"][:, None, None, None]
        predicted = jax.nn.one_hot(predicted, classes)
        return {"confusion": jnp.einsum("nhwi,nhwj->ij", truth, predicted, precision="highest")}

    def metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        return segmentation_metrics(sums["confusion"])

    def annotated(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        pairs = zip(batch["image"], batch["mask"], strict=True)
        return np.stack([np.asarray(overlay(*pair)) for pair in pairs])

    def results(self, model: nnx.Module, source: Source, count: int) -> Sequence[Any]:
        """Return images, and truth and prediction with all classes but the first tinted."""
        examples = [source[i] for i in range(count)]
        images = np.stack([example["image"] for example in examples])
        predicted = np.asarray(jax.jit(lambda x: self.logits(model, x).argmax(-1))(images))
        masks = np.stack([example["mask"] for example in examples])
        columns = (zip(images, found, strict=True) for found in (masks, predicted))
        tinted = [[np.asarray(overlay(*pair)) for pair in column] for column in columns]
        return images, *tinted


def dice_loss(probabilities: jax.Array, members: jax.Array) -> jax.Array:
    """Return one minus the mean Dice coefficient of images and classes: ``[N, H, W, C]`` both.

    Twice the common mass over the sum of both; 1 is added above and below, for absent classes.
    Milletari et al., "V-Net", 3DV 2016.
    """
    common, total = (v.sum((1, 2)) for v in (probabilities * members, probabilities + members))
    return 1 - jnp.mean((2 * common + 1) / (total + 1))


def make(config: Config, options: Options, source: Source) -> Segmentation:
    """Build the task."""
    return Segmentation(
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        options=options,
    )


SEGMENTATION = TaskEntry(
    options=Options,
    make=make,
    data=SOURCES,
    open=open_split,
    metrics={
        "mean_iou": "max",
        "mean_accuracy": "max",
        "accuracy": "max",
        "weighted_iou": "max",
    },
    results=("image", "truth", "found"),
)
