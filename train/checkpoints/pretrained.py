# SPDX-License-Identifier: Apache-2.0
"""Pretrained weights that a run starts from."""

import os

from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.parts import as_parts
from spectral_flax.checkpoints.store import load_weights
from train.config import Pretrained
from train.errors import UserError
from train.processes.distributed import log
from train.task import Task


def load_pretrained(start: Pretrained, model: nnx.Module, task: Task) -> None:
    """Fill ``model`` with the weights that ``start`` names, if any; say what was filled.

    Raises:
      UserError: the weights cannot be read or do not fit; what does not is listed.
    """
    if start.weights is None:
        return
    try:
        report = (
            _inflated(start, model) if start.inflate is not None else _filled(start, model, task)
        )
    except (OSError, TypeError, ValueError, ImportError) as error:
        raise UserError(f"--pretrained.weights {os.fspath(start.weights)}: {error}") from error
    log(f"begins from {start.weights}: {report}")


def _filled(start: Pretrained, model: nnx.Module, task: Task) -> str:
    weights = sf.read_weights(start.weights, entry=start.entry)
    skip = as_parts(start.skip, "--pretrained.skip")
    weights, skip = task.weights_to_start(weights, skip)
    load_weights(model, weights, skip=skip, allow_non_finite=start.allow_non_finite)
    return "all arrays" + (f" but those of {', '.join(skip)}" if skip else "")


def _inflated(start: Pretrained, model: nnx.Module) -> str:
    options = {"num_classes": None} | start.inflate_options
    skip = () if options["num_classes"] else ("head",)
    how = dict(allow_non_finite=start.allow_non_finite)
    image_model = sf.create_model(
        start.inflate, pretrained=start.weights, entry=start.entry, skip=skip, **how, **options
    )
    return str(sf.inflate(image_model, model, skip=start.skip or skip, **how))
