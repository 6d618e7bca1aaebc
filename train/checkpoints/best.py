# SPDX-License-Identifier: Apache-2.0
"""The checkpoint with the best value of a metric so far."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_flax.messages import shown
from spectral_flax.models.record import ModelRecord
from train.checkpoints.checkpoints import Checkpoints, DamagedCheckpointError
from train.checkpoints.failed_reads import drop_failed_reads
from train.checkpoints.state import TrainState
from train.config import Config
from train.errors import UserError
from train.task import Direction


class BestCheckpoint:
    """The one checkpoint in ``directory``: that with the best value of a figure so far.

    ``directions`` are all figures there are, and whether each is best when high or low.
    """

    def __init__(self, directory: Path, figure: str, directions: Mapping[str, Direction]):
        if figure not in directions:
            known = ", ".join(directions)
            raise UserError(f"--best is {shown(repr(figure))}; the figures are {known}")
        # A second one while the better takes the place of the other.
        self.checkpoints = Checkpoints(directory, keep=2)
        self.figure, self.sign = figure, {"max": 1, "min": -1}[directions[figure]]
        self._kept()

    def offer(
        self,
        config: Config,
        state: TrainState,
        position: Any,
        figures: dict,
        record: ModelRecord | None = None,
    ) -> None:
        """Keep this state in place of the one before if its figure is better; waits for the disk.

        A figure that is not a number is worse than any other.
        """
        kept, step = self._kept(), int(state.step)
        if any(not self._better(figures[self.figure], before) for before in kept.values()):
            return
        if step in kept:  # of the same run, which went back to an earlier checkpoint meanwhile
            self.checkpoints.delete(step)
        self.checkpoints.save(config, state, position, figures, record=record, force=True)
        self.checkpoints.wait()
        for other in kept.keys() - {step}:
            self.checkpoints.delete(other)

    def _better(self, value: float, before: float) -> bool:
        return not math.isnan(value) and (
            math.isnan(before) or self.sign * value > self.sign * before
        )

    def _kept(self) -> dict[int, float]:
        """Return the figure of what is there, damaged ones having been set aside."""
        kept: dict[int, float] = {}
        for step in self.checkpoints.steps():
            try:
                value = self.checkpoints.record(step).figures.get(self.figure, math.nan)
            except DamagedCheckpointError as error:
                self.checkpoints.log(f"the best checkpoint, of step {step}, is damaged: {error}")
                self.checkpoints.log("it is set aside; the next evaluation takes its place")
                self.checkpoints.set_aside([step])
            else:
                kept[step] = value
                continue
            drop_failed_reads()
        return kept

    def close(self) -> None:
        """Release the threads."""
        self.checkpoints.close()
