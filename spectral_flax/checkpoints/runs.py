# SPDX-License-Identifier: Apache-2.0
"""Folders of training runs: where their checkpoints are, and what these say of their model.

A run is a folder with ``checkpoints/STEP``, where it kept the best one ``best/STEP``, and a
``config.json``, the record of its model with the figures of its last evaluation. A checkpoint holds
groups of arrays: ``params``, ``average`` (the exponential moving average of the parameters) and
``rest`` (batch statistics and the like), and the run's own record in JSON.
"""

import ast
import dataclasses
import json
import pathlib
import re
import zlib
from typing import Any

from spectral_flax import buckets
from spectral_flax.checkpoints import manifest
from spectral_flax.checkpoints.earlier import options_before_records
from spectral_flax.checkpoints.records import read_record, record_from_values
from spectral_flax.files import read_small
from spectral_flax.messages import message
from spectral_flax.models.record import ModelRecord, WeightKind

CONFIG = "config.json"
MAX_RECORD = 1 << 24  # bytes; names of arrays are most of them
RECORD = "model_record"  # in the JSON of a checkpoint
FOLDERS = ("checkpoints", "best")
_STEP = re.compile("[0-9]+")
_COMMITTED = "commit_success.txt"  # what Orbax writes last


def is_run(folder: pathlib.Path) -> bool:
    """Return whether a folder is the work directory of a training run."""
    if (folder / "metrics.jsonl").exists() or (folder / ".lock").exists():
        return True
    return any((folder / part).is_dir() for part in FOLDERS)


def steps_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the checkpoints in a folder of them, newest first."""
    numbered = (path for path in folder.glob("*") if _STEP.fullmatch(path.name))
    steps = [path for path in numbered if is_orbax(path) and is_finished(path)]
    return sorted(steps, key=lambda path: int(path.name), reverse=True)


def is_finished(step: "buckets.Path") -> bool:
    """Return whether a checkpoint is whole: in a bucket, where no folder is renamed, a mark says.

    On a disk a folder has its name only then.
    """
    return not buckets.is_remote(step) or (step / _COMMITTED).exists()


def is_orbax(path: pathlib.Path) -> bool:
    """Return whether Orbax wrote this folder."""
    return any((path / marker).exists() for marker in ("_METADATA", "_CHECKPOINT_METADATA"))


def is_step(path: pathlib.Path) -> bool:
    """Return whether a folder is a checkpoint of a training run."""
    return (path / "params").is_dir()


def newest_step(folder: pathlib.Path) -> pathlib.Path | None:
    """Return the checkpoint to read of a run, or of a folder of checkpoints; None of others.

    Raises ValueError if a run has no checkpoint.
    """
    if is_orbax(folder):
        return folder
    for place in (folder, folder / "checkpoints"):
        if steps := steps_in(place):
            return steps[0]
    if is_run(folder) or folder.name in FOLDERS:
        places = ", ".join(str(folder / part) for part in FOLDERS if is_run(folder)) or str(folder)
        raise ValueError(f"the run {folder} has no checkpoint yet; looked in {places}")
    return None


def run_groups(step: pathlib.Path, kind: WeightKind | None) -> list[str]:
    """Return the groups of a checkpoint that make up a model; ``kind`` as in `read_orbax`.

    Raises ValueError if a file is not as it was written, or the run kept no average.
    """
    fault = manifest.fault(step)
    if fault is not None:
        others = [path.name for path in steps_in(step.parent) if path != step]
        more = f"; there are also {', '.join(others)} beside it" if others else ""
        raise ValueError(f"the checkpoint {step} is damaged: {fault}{more}")
    averaged = (step / "average").is_dir()
    if kind == "ema" and not averaged:
        raise ValueError(f"{step} holds no averaged parameters; expected weights='raw'")
    return ["average" if averaged and kind != "raw" else "params", "rest"]


def run_record(step: pathlib.Path, groups: list[str]) -> ModelRecord:
    """Return the record of the model that ``groups`` of a checkpoint make up.

    Figures are those of an evaluation of these parameters. Raises ValueError, naming the
    checkpoint, if it is damaged.
    """
    kind = "ema" if "average" in groups else "raw"
    if not (step / "record").is_dir():  # of another program
        return ModelRecord(weights=kind)
    try:
        values = _values(step)
        told = values.get(RECORD)
        record = _earlier(values["config"]) if told is None else record_from_values(told)
        figures = {str(name): float(value) for name, value in values["figures"].items()}
        record = dataclasses.replace(
            record, weights=kind, step=int(values["step"]), figures=figures
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        told = message(error, 300)
        raise ValueError(f"the record of the checkpoint {step} cannot be read: {told}") from error
    config = step.parent.parent / CONFIG
    if not figures and config.is_file():
        last = read_record(config)
        if last is not None and last.step == record.step:
            record = dataclasses.replace(record, figures=last.figures)
    if kind == "raw" and (step / "average").is_dir():  # those evaluated are the averaged ones
        return dataclasses.replace(record, figures={})
    return record


def _values(step: pathlib.Path) -> dict[str, Any]:
    item = json.loads(read_small(step / "record" / "metadata", MAX_RECORD))
    text = item["text"]
    if zlib.crc32(text.encode()) != item["crc32"]:
        raise ValueError("its checksum differs")
    return json.loads(text)


def _earlier(text: str) -> ModelRecord:
    """Return what a run of an earlier version tells: model, options, task and its config."""
    config = ast.literal_eval(text)
    options = config.get("options", {})
    return ModelRecord(
        model=config["model"],
        options=options_before_records(config["model"], options),
        task=config.get("task", ""),
        run=config,
    )
