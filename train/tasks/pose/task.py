# SPDX-License-Identifier: Apache-2.0
"""Pose: heatmaps of joints by squared error, COCO's figures of what is decoded from them."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

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
from spectral_flax.models.registry import Card
from train.checkpoints.encoders import fill_encoder, read_encoder
from train.config import Config
from train.data import Source, open_source
from train.report.image_grid import write_sheet
from train.task import Direction
from train.tasks.pose.data import People
from train.tasks.pose.evaluation import FIGURES, coco_figures, detections


def make(config: Config, source: Source) -> "Pose":
    """Build the task; ``task_options`` are the options of `Pose`."""
    if not isinstance(source, People):
        raise ValueError(f"the data set {config.data.name!r} has no people")
    test = source if source.split == "test" else open_source(config.data.name, "test", config.data)
    about = sf.card(config.model)
    if "bgr" in config.task_options:
        raise ValueError(
            f"bgr={config.task_options['bgr']!r} is no option; the card of {config.model!r} says "
            f"{about.channel_order}, in training as in prediction"
        )
    return Pose(test=test, image_shape=source.image_shape, about=about, **config.task_options)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """Regions around people and the joints in them.

    Attributes:
      about: the model's card, which says how it wants images.
      sigma: of the targets' Gaussians, in pixels of the heatmap; None: 2 for each 64 rows.
      flip_test: also look at mirrored images in the evaluation.
      encoder_weights: file of a classifier to start the encoder from, when a run begins.
      encoder_start: its weights, once they are read.
    """

    test: People
    image_shape: tuple[int, ...]
    about: Card = dataclasses.field(default_factory=lambda: sf.card("pose_resnet50"))
    sigma: int | None = None
    flip_test: bool = True
    encoder_weights: str | None = None
    encoder_start: Weights | None = None

    rows: ClassVar[tuple[str, ...]] = ("joints", "index", "valid")
    directions: ClassVar[dict[str, Direction]] = dict.fromkeys(FIGURES, "max")

    @property
    def model_options(self) -> dict[str, Any]:
        return {"num_joints": 17, "input_size": self.image_shape[:2]}

    @property
    def heatmap_size(self) -> tuple[int, int]:
        return self.image_shape[0] // 4, self.image_shape[1] // 4

    def prepared(self, workdir: Path, *, begins: bool) -> "Pose":
        """Return the task with the weights read that a run begins from."""
        if self.encoder_weights is None or not begins:
            return self
        start = read_encoder("encoder_weights", self.encoder_weights)
        return dataclasses.replace(self, encoder_start=start)

    def extended(self, model: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """Start the encoder from a classifier's weights, if there are any."""
        if self.encoder_start is not None:
            name = f"encoder_weights {self.encoder_weights!r}"
            fill_encoder(name, model.encoder, self.encoder_start)
        return model

    def weights_to_start(self, weights: Weights, skip: tuple[str, ...]):
        return weights, skip

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

    def loss(self, model: nnx.Module, batch, key: jax.Array):
        size = self.heatmap_size
        sigma = self.sigma or max(1, round(size[0] / 32))
        target, weight = gaussian_heatmaps(
            batch["joints"] / 4, batch["visible"], size=size, sigma=sigma
        )
        error = (self.heatmaps(model, batch["image"]) - target) * weight[:, None, None, :]
        loss = 0.5 * jnp.mean(error**2)
        return loss, {"joints": weight.sum(-1).mean()}

    def metrics(self, model: nnx.Module, batch):
        heatmaps = self.heatmaps(model, batch["image"])
        if self.flip_test:
            mirrored = self.heatmaps(model, batch["image"][:, :, ::-1])
            heatmaps = (heatmaps + flip_heatmaps(mirrored)) / 2
        places, scores = decode_heatmaps(heatmaps)
        joints = jnp.concatenate([places, scores[..., None]], -1)
        return {"joints": joints, "index": batch["index"], "valid": batch["valid"]}

    def summary(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        seen = sums["valid"] > 0
        joints = np.zeros((len(self.test), 17, 3))  # whom the network has not seen has no score
        joints[sums["index"][seen]] = sums["joints"][seen]
        regions = [box_to_region(p["box"], self.test.size) for p in self.test.people]
        for i, region in enumerate(regions):
            matrix = crop_matrix(*region, self.heatmap_size)
            joints[i, :, :2] = transform_points(joints[i, :, :2], matrix)
        extents = np.array([extent for _, extent in regions])
        found = detections(self.test.people, joints, extents)
        return coco_figures(self.test.annotations, found)

    def picture(self, model: nnx.Module, source: Source, path: Path, count: int = 6) -> None:
        """Write rows of crop, skeleton of the annotated joints, and skeleton that was found."""
        examples = [source[i] for i in range(min(count, len(source)))]
        images = np.stack([example["image"] for example in examples])
        heatmaps = np.asarray(jax.jit(lambda x: self.heatmaps(model, x))(images))
        places, scores = (np.asarray(a) for a in decode_heatmaps(heatmaps))
        truth = [example["joints"] for example in examples]
        visible = [example["visible"] for example in examples]

        def drawn(joints, scores):
            triples = zip(images, joints, scores, strict=True)
            return [draw_skeletons(image, xy[None], s[None]) for image, xy, s in triples]

        columns = {"image": images, "truth": drawn(truth, visible)}
        write_sheet(columns | {"found": drawn(4 * places, scores)}, path)
