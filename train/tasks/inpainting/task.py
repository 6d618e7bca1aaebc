# SPDX-License-Identifier: Apache-2.0
"""Inpainting: a generator against a discriminator, which move in turn."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.names import register_rules
from spectral_flax.checkpoints.names.inpainting import training_rules
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.models.inpainting import PatchDiscriminator
from train.checkpoints.encoders import fill_encoder, kept_encoder
from train.config import Config
from train.data import Source
from train.errors import UserError
from train.report.image_grid import write_sheet
from train.task import Direction
from train.tasks.inpainting import losses


def make(config: Config, source: Source) -> "Inpainting":
    """Build the task; ``task_options`` are weights of `Inpainting`'s losses, and an encoder.

    ``encoder=dict(model=NAME, weights=FILE, options={…})`` names the network whose feature maps
    the perceptual loss compares, with published weights.
    """
    options = dict(config.task_options)
    encoder = options.pop("encoder", None)
    if encoder is not None:
        encoder = Encoder(**encoder)
    if options.get("perceptual") and encoder is None:
        raise ValueError("a perceptual loss needs encoder=dict(model=NAME, weights=FILE)")
    return Inpainting(image_shape=source.image_shape, encoder=encoder, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """A network, by name and options, and the file of its weights."""

    model: str
    weights: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def loaded(self, folder: Path, *, begins: bool):
        """Return graph, arrays, mean and deviation; ``folder`` is the run's own copy."""
        name = "encoder weights"
        weights = kept_encoder(name, self.weights, folder, begins=begins)
        try:
            network = sf.create_model(self.model, **{"num_classes": None} | self.options)
        except (TypeError, ValueError) as error:
            raise UserError(f"encoder model {self.model!r}: {error}") from error
        if not hasattr(network, "features"):
            raise UserError(f"encoder model={self.model!r} has no feature maps")
        fill_encoder(f"{name} {self.weights!r}", network, weights)
        network.eval()
        card = sf.card(self.model)
        mean, std = (np.float32(v).reshape(1, 1, 1, -1) for v in (card.mean, card.std))
        return *nnx.split(network), mean, std


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
class Inpainting:
    """Images with holes. The weights are the published ones; a weight of 0 leaves a loss out.

    In each step the generator moves first; what it then makes of the same images, batch statistics
    included, is what the discriminator learns from, as in the published code. The generator's
    losses do not move the discriminator, nor the other way round.
    """

    image_shape: tuple[int, ...]
    l1_known: float = 10.0
    l1_missing: float = 0.0
    adversarial: float = 10.0
    gradient_penalty: float = 0.001
    feature_matching: float = 100.0
    perceptual: float = 0.0
    discriminator_width: int = 64
    discriminator_layers: int = 4
    encoder: Encoder | None = None
    maps: Any = None  # the encoder's, once it is read

    rows: ClassVar[tuple[str, ...]] = ()
    directions: ClassVar[dict[str, Direction]] = {"psnr": "max", "ssim": "max", "l1": "min"}

    @property
    def model_options(self) -> dict[str, Any]:
        return {}

    @property
    def turns(self) -> tuple[str, ...]:
        return ("generator", "discriminator")

    def prepared(self, workdir: Path, *, begins: bool) -> "Inpainting":
        """Return the task with the encoder read that the perceptual loss compares by."""
        if not self.perceptual:
            return self
        maps = self.encoder.loaded(workdir / "encoder", begins=begins)
        return dataclasses.replace(self, maps=maps)

    def extended(self, model: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """Put a discriminator beside the generator."""
        widths = dict(width=self.discriminator_width, layers=self.discriminator_layers)
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

    def loss(self, model: nnx.Module, batch, key: jax.Array):
        image, mask, fake = _filled(model.generator, batch)
        l1 = losses.masked_l1(fake, image, mask, known=self.l1_known, missing=self.l1_missing)
        total, scalars = l1, {"l1": l1}
        if self.perceptual:
            pair = (self._encoded(x) for x in (fake, image))
            perceptual = losses.perceptual(*pair)
            total += self.perceptual * perceptual
            scalars["perceptual"] = perceptual
        if self.adversarial or self.feature_matching:
            judge = model.discriminator
            frozen = _frozen(judge)
            of_fake, of_real = frozen.features(fake), frozen.features(image)
            fooling = losses.generator_loss(of_fake[-1])
            matching = losses.feature_matching(of_fake[:-1], of_real[:-1])
            total += self.adversarial * fooling + self.feature_matching * matching
            real, slope = _score_and_slope(judge, image)
            judged = losses.discriminator_loss(real, judge(jax.lax.stop_gradient(fake)), mask)
            penalty = losses.gradient_penalty(slope)
            total += judged + self.gradient_penalty * penalty
            scalars |= {
                "fooling": fooling,
                "matching": matching,
                "judging": judged,
                "penalty": penalty,
            }
        return total, scalars

    def metrics(self, model: nnx.Module, batch):
        image, mask, fake = _filled(model.generator, batch)
        whole, valid = mask * fake + (1 - mask) * image, batch["valid"]
        return {
            "count": valid.sum(),
            "psnr": jnp.sum(losses.psnr(whole, image) * valid),
            "ssim": jnp.sum(losses.ssim(whole, image) * valid),
            "l1": jnp.sum(jnp.abs(whole - image).mean((1, 2, 3)) * valid),
        }

    def summary(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        return {name: float(sums[name] / sums["count"]) for name in ("psnr", "ssim", "l1")}

    def picture(self, model: nnx.Module, source: Source, path: Path, count: int = 6) -> None:
        """Write rows of image, image with its hole in grey, and result."""
        examples = [source[i] for i in range(min(count, len(source)))]
        images = np.stack([example["image"] for example in examples])
        masks = np.stack([example["mask"] for example in examples])
        torn = np.where(masks[..., None] > 0, np.uint8(128), images)
        filled = sf.inpaint(model.generator, images, masks)
        write_sheet({"original": images, "given": torn, "filled in": filled}, path)

    def _encoded(self, x: jax.Array) -> list[jax.Array]:
        graphdef, state, mean, std = self.maps
        maps = nnx.merge(graphdef, state, copy=True).features((x - mean) / std)
        return list(maps.values())


def _filled(generator, batch):
    image, mask = batch["image"].astype(jnp.float32) / 255, batch["mask"][..., None]
    fake = generator(jnp.concatenate([image * (1 - mask), mask], axis=-1))
    return image, mask, fake.astype(jnp.float32)


def _frozen(module: nnx.Module) -> nnx.Module:
    """Return a copy whose parameters receive no gradient and whose statistics go their own way."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    return nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, params), rest, copy=True)


def _score_and_slope(judge: nnx.Module, image: jax.Array):
    """Return the logits of images and the gradient of their sum; batch statistics are updated."""
    graphdef, params, rest = nnx.split(judge, nnx.Param, ...)

    def score(image):
        copy = nnx.merge(graphdef, params, rest, copy=True)
        logits = copy(image)
        return logits.sum(), (logits, nnx.state(copy, nnx.Not(nnx.Param)))

    slope, (logits, rest) = jax.grad(score, has_aux=True)(image)
    nnx.update(judge, rest)
    return logits, slope
