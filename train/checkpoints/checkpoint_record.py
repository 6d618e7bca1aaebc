# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says about itself: its step, config, position in the data, names of arrays."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from spectral_flax.checkpoints.earlier import current_names, options_before_records
from spectral_flax.checkpoints.runs import RECORD
from spectral_flax.messages import reason
from train.config import Config, from_text
from train.errors import UserError

FORMAT = 3


class Record(NamedTuple):
    """What a checkpoint says about itself; ``digests`` of its arrays are in format 2 only."""

    step: int
    config: Config
    position: Any
    names: dict[str, dict[str, str]]  # of the arrays of each group: current -> stored
    digests: dict[str, dict[str, int]] | None
    figures: dict[str, float]
    class_names: tuple[str, ...] = ()  # empty where it names none


def to_record(folder: Path, values: dict[str, Any]) -> Record:
    """Read a record whose checksum is right: what does not fit comes from another version."""
    try:
        digests = values["digests"] if values["format"] == 2 else None
        stored = values["names"] if digests is None else {g: list(d) for g, d in digests.items()}
        current = current_names(name for group in stored.values() for name in group)
        names = {g: {current[name]: name for name in there} for g, there in stored.items()}
        figures = {str(name): float(value) for name, value in values["figures"].items()}
        config = from_text(values["config"])
        told = values.get(RECORD)
        classes = tuple((told or {}).get("class_names", ()))
        if told is None:
            options = options_before_records(config.model, config.options)
            config = dataclasses.replace(config, options=options)
        step, position = int(values["step"]), values["position"]
        return Record(step, config, position, names, digests, figures, classes)
    except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        raise UserError(
            f"{folder} was written by another version of this program: {reason(error)}"
        ) from error
