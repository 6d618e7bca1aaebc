# SPDX-License-Identifier: Apache-2.0
"""Weights to begin a run from."""

import os
from pathlib import Path

from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.store import load_weights
from train.config import Start
from train.errors import UserError
from train.processes import say


def load_start(start: Start, model: nnx.Module) -> None:
    """Fill ``model`` with the weights that ``start`` names, if any; say what was filled.

    Raises:
      UserError: the weights cannot be read or do not fit; what does not is listed.
    """
    if start.weights is None:
        return
    try:
        if start.inflate is None:
            load_weights(model, sf.read_weights(_place(start.weights)), skip=start.skip)
            report = "all arrays" + (f" but those of {', '.join(start.skip)}" if start.skip else "")
        else:
            options = {"num_classes": None} | start.inflate_options
            skip = () if options["num_classes"] else ("head",)
            image_model = sf.create_model(
                start.inflate, pretrained=_place(start.weights), skip=skip, **options
            )
            report = sf.inflate(image_model, model, skip=start.skip or skip)
    except (OSError, TypeError, ValueError, sf.CheckpointError) as error:
        raise UserError(f"--start.weights {os.fspath(start.weights)}: {error}") from error
    say(f"begins from {start.weights}: {report}")


def _place(weights: str) -> str | Path:
    """Return the newest checkpoint where a folder of them is given, such as the best/ of a run."""
    steps = [path for path in Path(weights).glob("*") if path.name.isdigit()]
    return max(steps, key=lambda path: int(path.name), default=weights)
