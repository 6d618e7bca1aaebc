# SPDX-License-Identifier: Apache-2.0
"""Segmentation: a class for every pixel, by cross-entropy and Dice."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from spectral_flax.checkpoints.weights import Weights
from spectral_flax.inference.images import normalized
from train.config import Config
from train.data import Source
from train.report.image_grid import write_sheet
from train.task import Direction
from train.tasks.segmentation.metrics import segmentation_metrics


def make(config: Config, source: Source) -> "Segmentation":
    """Build the task; ``task_options`` are the weights ``cross_entropy`` and ``dice``."""
    return Segmentation(
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        **config.task_options,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Pixels of an image and their classes; the losses are weighted sums of the two."""

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cross_entropy: float = 1.0
    dice: float = 1.0

    rows: ClassVar[tuple[str, ...]] = ()
    directions: ClassVar[dict[str, Direction]] = {
        "mean_iou": "max",
        "mean_accuracy": "max",
        "accuracy": "max",
        "weighted_iou": "max",
    }

    @property
    def model_options(self) -> dict[str, Any]:
        size = {"input_size": self.image_shape[:2]}
        return {"num_classes": self.num_classes, "in_features": self.image_shape[-1]} | size

    def weights_to_start(self, weights: Weights, skip: tuple[str, ...]):
        return weights, skip

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8),
            "mask": jax.ShapeDtypeStruct((batch_size, *self.image_shape[:2]), jnp.int32),
        }

    def logits(self, model: nnx.Module, image: jax.Array) -> jax.Array:
        return model(normalized(image, self.mean, self.std)).astype(jnp.float32)

    def loss(self, model: nnx.Module, batch, key: jax.Array):
        logits = self.logits(model, batch["image"])
        members = jax.nn.one_hot(batch["mask"], self.num_classes)
        entropy = optax.softmax_cross_entropy(logits, members).mean()
        dice = dice_loss(jax.nn.softmax(logits), members)
        accuracy = jnp.mean(logits.argmax(-1) == batch["mask"])
        return self.cross_entropy * entropy + self.dice * dice, {
            "accuracy": accuracy,
            "cross_entropy": entropy,
            "dice": dice,
        }

    def metrics(self, model: nnx.Module, batch):
        predicted = self.logits(model, batch["image"]).argmax(-1)
        classes = self.num_classes
        truth = jax.nn.one_hot(batch["mask"], classes) * batch["valid"][:, None, None, None]
        predicted = jax.nn.one_hot(predicted, classes)
        return {"confusion": jnp.einsum("nhwi,nhwj->ij", truth, predicted, precision="highest")}

    def summary(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        return segmentation_metrics(sums["confusion"])

    def picture(self, model: nnx.Module, source: Source, path: Path, count: int = 6) -> None:
        """Write rows of image, truth and prediction, the classes but the first tinted."""
        examples = [source[i] for i in range(min(count, len(source)))]
        images = np.stack([example["image"] for example in examples])
        predicted = np.asarray(jax.jit(lambda x: self.logits(model, x).argmax(-1))(images))
        masks = np.stack([example["mask"] for example in examples])
        truth, found = overlay(images, masks), overlay(images, predicted)
        write_sheet({"image": images, "truth": truth, "found": found}, path)


def dice_loss(probabilities: jax.Array, members: jax.Array) -> jax.Array:
    """Return one minus the mean Dice coefficient of images and classes: ``[N, H, W, C]`` both.

    Twice the common mass over the sum of both; 1 is added above and below, for absent classes.
    Milletari et al., "V-Net", 3DV 2016.
    """
    common, total = (v.sum((1, 2)) for v in (probabilities * members, probabilities + members))
    return 1 - jnp.mean((2 * common + 1) / (total + 1))


def overlay(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Tint the pixels of all classes but the first: ``uint8 [N, H, W, 3], [N, H, W]``."""
    tint = np.array([255, 40, 40])
    tinted = np.where(masks[..., None] > 0, 0.6 * images + 0.4 * tint, images)
    return np.rint(tinted).astype(np.uint8)
