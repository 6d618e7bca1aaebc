# SPDX-License-Identifier: Apache-2.0
"""Pose estimation: heatmaps of joints, and COCO's metrics of the joints decoded from them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.functional.keypoints import decode_heatmaps, flip_heatmaps, gaussian_heatmaps
from spectral_flax.inference.images import normalized
from spectral_flax.inference.pose import (
    box_to_region,
    crop_matrix,
    draw_skeletons,
    transform_points,
)
from spectral_flax.models.record import Card
from train.checkpoints.encoders import fill_encoder, read_encoder
from train.config import Config
from train.data import Source
from train.task import Batch, Scalars, Task, TaskEntry
from train.tasks.pose.data import SOURCES, People, open_split
from train.tasks.pose.evaluation import METRICS, coco_metrics, detections
from train.tasks.pose.options import Options


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pose(Task):
    """Heatmaps of the joints in regions around people, by squared error.

    Attributes:
      about: the model's card, which says how it wants images.
      encoder_start: weights of ``options.encoder_weights``, once they are read.
    """

    test: People
    image_shape: tuple[int, ...]
    about: Card = dataclasses.field(default_factory=lambda: sf.card("pose_resnet50"))
    options: Options = dataclasses.field(default_factory=Options)
    encoder_start: Weights | None = None

    rows = ("joints", "index", "valid")

    @property
    def model_options(self) -> dict[str, Any]:
        return {"num_joints": 17, "input_size": self.image_shape[:2]}

    @property
    def heatmap_size(self) -> tuple[int, int]:
        return self.image_shape[0] // 4, self.image_shape[1] // 4

    def prepared(self, workdir: Path, *, begins: bool) -> "Pose":
        """Return the task with the weights read that a run begins from."""
        if self.options.encoder_weights is None or not begins:
            return self
        start = read_encoder("encoder_weights", self.options.encoder_weights)
        return dataclasses.replace(self, encoder_start=start)

    def extended(self, model: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """Start the encoder from a classifier's weights, if there are any."""
        if self.encoder_start is not None:
            name = f"encoder_weights {self.options.encoder_weights!r}"
            fill_encoder(name, model.encoder, self.encoder_start)
        return model

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shapes = {"joints": (17, 2), "visible": (17,), "centre": (2,), "extent": (2,)}
        arrays = {k: jax.ShapeDtypeStruct((batch_size, *s), jnp.float32) for k, s in shapes.items()}
        return arrays | {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8),
            "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def heatmaps(self, model: nnx.Module, image: jax.Array) -> jax.Array:
        about = self.about
        x = normalized(image, about.mean, about.std, bgr=about.channel_order == "BGR")
        return model(x).astype(jnp.float32)

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        size = self.heatmap_size
        sigma = self.options.sigma or max(1, round(size[0] / 32))
        target, weight = gaussian_heatmaps(
            batch["joints"] / 4, batch["visible"], size=size, sigma=sigma
        )
        error = (self.heatmaps(model, batch["image"]) - target) * weight[:, None, None, :]
        loss = 0.5 * jnp.mean(error**2)
        return loss, {"joints": weight.sum(-1).mean()}

    def output(self, model: nnx.Module, batch: Batch) -> jax.Array:
        return self.heatmaps(model, batch["image"])

    def output_shape(self, batch_size: int) -> tuple[int, ...]:
        return batch_size, *self.heatmap_size, 17

    def metric_sums(self, model: nnx.Module, batch: Batch) -> Scalars:
        heatmaps = self.heatmaps(model, batch["image"])
        if self.options.flip_test:
            mirrored = self.heatmaps(model, batch["image"][:, :, ::-1])
            heatmaps = (heatmaps + flip_heatmaps(mirrored)) / 2
        coordinates, scores = decode_heatmaps(heatmaps)
        joints = jnp.concatenate([coordinates, scores[..., None]], -1)
        return {"joints": joints, "index": batch["index"], "valid": batch["valid"]}

    def metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        seen = sums["valid"] > 0
        joints = np.zeros((len(self.test), 17, 3))  # whom the network has not seen has no score
        joints[sums["index"][seen]] = sums["joints"][seen]
        regions = [box_to_region(p["box"], self.test.size) for p in self.test.people]
        for i, region in enumerate(regions):
            matrix = crop_matrix(*region, self.heatmap_size)
            joints[i, :, :2] = transform_points(joints[i, :, :2], matrix)
        extents = np.array([extent for _, extent in regions])
        found = detections(self.test.people, joints, extents)
        return coco_metrics(self.test.annotations, found)

    def annotated(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = zip(batch["image"], batch["joints"], batch["visible"], strict=True)
        return np.stack([draw_skeletons(image, xy[None], seen[None]) for image, xy, seen in rows])

    def results(self, model: nnx.Module, source: Source, count: int) -> Sequence[Any]:
        """Return crops, and them with the annotated and with the predicted skeletons."""
        examples = [source[i] for i in range(count)]
        images = np.stack([example["image"] for example in examples])
        heatmaps = np.asarray(jax.jit(lambda x: self.heatmaps(model, x))(images))
        coordinates, scores = (np.asarray(a) for a in decode_heatmaps(heatmaps))
        truth = [example["joints"] for example in examples]
        visible = [example["visible"] for example in examples]

        def drawn(joints, scores):
            triples = zip(images, joints, scores, strict=True)
            return [draw_skeletons(image, xy[None], s[None]) for image, xy, s in triples]

        return images, drawn(truth, visible), drawn(4 * coordinates, scores)


def make(config: Config, options: Options, source: Source) -> Pose:
    """Build the task, which holds the test split: its metrics need all annotations at once."""
    test = source if source.split == "test" else open_split("test", config.data, options)
    about = sf.card(config.model)
    return Pose(test=test, image_shape=source.image_shape, about=about, options=options)


POSE = TaskEntry(
    options=Options,
    make=make,
    data=SOURCES,
    open=open_split,
    metrics=dict.fromkeys(METRICS, "max"),
    results=("image", "truth", "found"),
    may_change=("boxes",),
)
