# SPDX-License-Identifier: Apache-2.0
"""Inpainting: a generator against a discriminator, updated in turn."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import spectral_flax as sf
from spectral_flax.analysis.map_sizes import fewest_rows
from spectral_flax.checkpoints.names import register_rules
from spectral_flax.checkpoints.names.inpainting import training_rules
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.models.inpainting import PatchDiscriminator, masked_input
from train.checkpoints.encoders import fill_encoder, kept_encoder
from train.config import Config
from train.data import Source
from train.errors import UserError
from train.task import Batch, Scalars, Task, TaskEntry
from train.tasks.inpainting import losses
from train.tasks.inpainting.data import SOURCES, open_split
from train.tasks.inpainting.options import Options


class Adversaries(nnx.Module):
    """A generator and its discriminator, named as in the published training files."""

    def __init__(self, generator: nnx.Module, discriminator: nnx.Module):
        self.generator = generator
        self.discriminator = discriminator


register_rules(
    Adversaries, training_rules, "LaMa training", ignored=r"(?!generator\.|discriminator\.).*"
)
# A generator's own file; the discriminator is nowhere, and can only be skipped.
register_rules(Adversaries, functools.partial(training_rules, prefix=""), "LaMa")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inpainting(Task):
    """Images of which a part is masked and filled in.

    Each step updates the generator first. The discriminator then learns from what the updated
    generator makes of the same images, batch statistics included, as in the published code. The
    generator's losses do not change the discriminator, nor the other way round.
    """

    image_shape: tuple[int, ...]
    options: Options = dataclasses.field(default_factory=Options)
    maps: Any = None  # the encoder's, once it is read

    players = ("generator", "discriminator")

    @property
    def model_options(self) -> dict[str, Any]:
        return {}

    def prepared(self, workdir: Path, *, begins: bool) -> "Inpainting":
        """Return the task with the encoder read that the perceptual loss compares by."""
        if not self.options.perceptual:
            return self
        maps = _encoder(self.options, workdir / "encoder", begins=begins)
        return dataclasses.replace(self, maps=maps)

    def extended(self, model: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """Put a discriminator beside the generator."""
        options = self.options
        widths = dict(width=options.discriminator_width, layers=options.discriminator_layers)
        return Adversaries(model, PatchDiscriminator(**widths, rngs=rngs))

    def weights_to_start(
        self, weights: Weights, skip: tuple[str, ...]
    ) -> tuple[Weights, tuple[str, ...]]:
        """Return weights under the names of both adversaries, and what to skip.

        A file of a generator alone leaves the discriminator as it is.
        """
        holds = {part for name in weights.tensors for part in name.split(".", 4)[:4]}
        if weights.names == "flax" and "generator" not in holds:
            tensors = {f"generator.{name}": array for name, array in weights.tensors.items()}
            weights = dataclasses.replace(weights, tensors=tensors)
        return weights, skip if "discriminator" in holds else (*skip, "discriminator")

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8),
            "mask": jax.ShapeDtypeStruct((batch_size, *self.image_shape[:2]), jnp.float32),
        }

    def fewest_rows(self, model: nnx.Module) -> tuple[int, str]:
        *size, channels = self.image_shape
        images = jax.ShapeDtypeStruct((1, *size, channels + 1), np.float32)  # of `masked_input`
        return fewest_rows(model.generator, images)

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        image, mask, fake = _filled(model.generator, batch)
        weights = self.options
        l1 = losses.masked_l1(fake, image, mask, known=weights.l1_known, missing=weights.l1_missing)
        total, scalars = l1, {"l1": l1}
        if weights.perceptual:
            pair = (self._encoded(x) for x in (fake, image))
            perceptual = losses.perceptual(*pair)
            total += weights.perceptual * perceptual
            scalars["perceptual"] = perceptual
        if weights.adversarial or weights.feature_matching:
            discriminator = model.discriminator
            frozen = _frozen(discriminator)
            of_fake, of_real = frozen.features(fake), frozen.features(image)
            generator_loss = losses.generator_loss(of_fake[-1])
            matching = losses.feature_matching(of_fake[:-1], of_real[:-1])
            total += weights.adversarial * generator_loss + weights.feature_matching * matching
            real, gradient = _logits_and_gradient(discriminator, image)
            generated = discriminator(jax.lax.stop_gradient(fake))
            discriminator_loss = losses.discriminator_loss(real, generated, mask)
            penalty = losses.gradient_penalty(gradient)
            total += discriminator_loss + weights.gradient_penalty * penalty
            scalars |= {
                "generator_loss": generator_loss,
                "feature_matching_loss": matching,
                "discriminator_loss": discriminator_loss,
                "gradient_penalty": penalty,
            }
        return total, scalars

    def output(self, model: nnx.Module, batch: Batch) -> jax.Array:
        return _filled(model.generator, batch)[2]

    def output_shape(self, batch_size: int) -> tuple[int, ...]:
        return batch_size, *self.image_shape

    def metric_sums(self, model: nnx.Module, batch: Batch) -> Scalars:
        image, mask, fake = _filled(model.generator, batch)
        whole, valid = mask * fake + (1 - mask) * image, batch["valid"]
        return {
            "count": valid.sum(),
            "psnr": jnp.sum(losses.psnr(whole, image) * valid),
            "ssim": jnp.sum(losses.ssim(whole, image) * valid),
            "l1": jnp.sum(jnp.abs(whole - image).mean((1, 2, 3)) * valid),
        }

    def metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        return {name: float(sums[name] / sums["count"]) for name in ("psnr", "ssim", "l1")}

    def annotated(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return _with_holes(batch["image"], batch["mask"])

    def results(self, model: nnx.Module, source: Source, count: int) -> Sequence[Any]:
        """Return images, images with the masked part in grey, and the results."""
        examples = [source[i] for i in range(count)]
        images = np.stack([example["image"] for example in examples])
        masks = np.stack([example["mask"] for example in examples])
        return images, _with_holes(images, masks), sf.inpaint(model.generator, images, masks)

    def _encoded(self, x: jax.Array) -> list[jax.Array]:
        graphdef, state, mean, std = self.maps
        maps = nnx.merge(graphdef, state, copy=True).features((x - mean) / std)
        return list(maps.values())


def _with_holes(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return images with the masked part in grey."""
    return np.where(masks[..., None] > 0, np.uint8(128), images)


def _filled(generator, batch):
    image, mask = batch["image"].astype(jnp.float32) / 255, batch["mask"][..., None]
    fake = generator(masked_input(image, mask))
    return image, mask, fake.astype(jnp.float32)


def _frozen(module: nnx.Module) -> nnx.Module:
    """Return a copy whose parameters receive no gradient and whose statistics go their own way."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    return nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, params), rest, copy=True)


def _logits_and_gradient(discriminator: nnx.Module, image: jax.Array):
    """Return the logits of images and the gradient of their sum; batch statistics are updated."""
    graphdef, params, rest = nnx.split(discriminator, nnx.Param, ...)

    def score(image):
        copy = nnx.merge(graphdef, params, rest, copy=True)
        logits = copy(image)
        return logits.sum(), (logits, nnx.state(copy, nnx.Not(nnx.Param)))

    gradient, (logits, rest) = jax.grad(score, has_aux=True)(image)
    nnx.update(discriminator, rest)
    return logits, gradient


def _encoder(options: Options, folder: Path, *, begins: bool):
    """Return graph, arrays, mean and deviation; ``folder`` is the run's own copy of the weights."""
    name, path = "encoder weights", options.encoder_weights
    weights = kept_encoder(name, path, folder, begins=begins)
    try:
        arguments = {"num_classes": None} | options.encoder_options
        network = sf.create_model(options.encoder_model, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"encoder model {options.encoder_model!r}: {error}") from error
    if not hasattr(network, "features"):
        raise UserError(f"encoder model={options.encoder_model!r} has no feature maps")
    fill_encoder(f"{name} {path!r}", network, weights)
    network.eval()
    card = sf.card(options.encoder_model)
    mean, std = (np.float32(v).reshape(1, 1, 1, -1) for v in (card.mean, card.std))
    return *nnx.split(network), mean, std


def make(config: Config, options: Options, source: Source) -> Inpainting:
    """Build the task."""
    if options.perceptual and None in (options.encoder_model, options.encoder_weights):
        raise UserError(
            "--task-options.perceptual needs --task-options.encoder-model NAME and "
            "--task-options.encoder-weights FILE"
        )
    if min(source.image_shape[:2]) < losses.SSIM_WINDOW:
        size = " ".join(map(str, source.image_shape[:2]))
        expected = f"sides of {losses.SSIM_WINDOW} at least, a window of structural similarity"
        raise UserError(f"--data.size is {size}; expected {expected}")
    return Inpainting(image_shape=source.image_shape, options=options)


INPAINTING = TaskEntry(
    options=Options,
    make=make,
    data=SOURCES,
    open=open_split,
    metrics={"psnr": "max", "ssim": "max", "l1": "min"},
    results=("original", "given", "filled in"),
    may_change=("test_masks", "distort"),
)
