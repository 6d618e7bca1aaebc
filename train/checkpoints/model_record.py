# SPDX-License-Identifier: Apache-2.0
"""The record of the model that a run trains: what travels with its weights."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import spectral_flax as sf
from spectral_flax.checkpoints.records import record_to_json
from spectral_flax.checkpoints.runs import CONFIG
from spectral_flax.files import new_file
from spectral_flax.models.record import ModelRecord, WeightKind
from train.checkpoints.state import model_options
from train.config import Config
from train.data import Source
from train.task import Task

# Fields of a config that say where a run was, not what it learnt.
_PLACES = ("workdir", "mesh", "processes", "pretrained", "plugins")


def model_record(config: Config, task: Task, held_out: Source) -> ModelRecord:
    """Return the record of the model of ``config``; input is prepared as held-out examples are."""
    preprocessing = held_out.preprocessing
    if preprocessing is None:
        size = held_out.image_shape[:-1]
        preprocessing = dataclasses.replace(sf.card(config.model).preprocessing, input_size=size)
    names = tuple(held_out.class_names)
    return ModelRecord(
        model=config.model,
        options=model_options(config, task),
        task=config.task,
        preprocessing=preprocessing,
        class_names=() if names == tuple(map(str, range(len(names)))) else names,
        run=_run(config),
    )


def write_record(
    workdir: Path,
    record: ModelRecord,
    step: int,
    weights: WeightKind,
    figures: Mapping[str, float],
) -> None:
    """Write the record with the figures of an evaluation to ``config.json`` in ``workdir``."""
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    record = dataclasses.replace(record, step=step, weights=weights, figures=finite)
    with new_file(workdir / CONFIG, overwrite=True) as draft:
        draft.write_text(record_to_json(record), encoding="utf-8")


def _run(config: Config) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in _PLACES}
