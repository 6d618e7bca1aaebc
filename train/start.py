# SPDX-License-Identifier: Apache-2.0
"""Weights to begin a run from."""

import dataclasses
import os

from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.parts import as_parts
from spectral_flax.checkpoints.store import load_weights
from spectral_flax.checkpoints.weights import Weights
from train.config import Start
from train.errors import UserError
from train.inpainting.task import Adversaries
from train.processes import say


def load_start(start: Start, model: nnx.Module) -> None:
    """Fill ``model`` with the weights that ``start`` names, if any; say what was filled.

    Raises:
      UserError: the weights cannot be read or do not fit; what does not is listed.
    """
    if start.weights is None:
        return
    try:
        report = _inflated(start, model) if start.inflate is not None else _filled(start, model)
    except (OSError, TypeError, ValueError, ImportError) as error:
        raise UserError(f"--start.weights {os.fspath(start.weights)}: {error}") from error
    say(f"begins from {start.weights}: {report}")


def _filled(start: Start, model: nnx.Module) -> str:
    weights = sf.read_weights(start.weights, entry=start.entry)
    skip = as_parts(start.skip, "--start.skip")
    if isinstance(model, Adversaries):
        weights, skip = _of_adversaries(weights, skip)
    load_weights(model, weights, skip=skip, allow_non_finite=start.allow_non_finite)
    return "all arrays" + (f" but those of {', '.join(skip)}" if skip else "")


def _of_adversaries(weights: Weights, skip: tuple[str, ...]) -> tuple[Weights, tuple[str, ...]]:
    """Return weights under the names of both adversaries, and what to skip.

    A file of a generator alone leaves the discriminator as it is.
    """
    holds = {part for name in weights.tensors for part in name.split(".", 4)[:4]}
    if weights.names == "flax" and "generator" not in holds:
        tensors = {f"generator.{name}": array for name, array in weights.tensors.items()}
        weights = dataclasses.replace(weights, tensors=tensors)
    return weights, skip if "discriminator" in holds else (*skip, "discriminator")


def _inflated(start: Start, model: nnx.Module) -> str:
    options = {"num_classes": None} | start.inflate_options
    skip = () if options["num_classes"] else ("head",)
    how = dict(allow_non_finite=start.allow_non_finite)
    image_model = sf.create_model(
        start.inflate, pretrained=start.weights, entry=start.entry, skip=skip, **how, **options
    )
    return str(sf.inflate(image_model, model, skip=start.skip or skip, **how))
