# SPDX-License-Identifier: Apache-2.0
"""Options of segmentation."""

import dataclasses

from train.fields import NonNegative
from train.task import TaskOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """Weights of the losses."""

    cross_entropy: NonNegative = 1.0
    """Weight of the cross-entropy of pixels."""
    dice: NonNegative = 1.0
    """Weight of one minus the Dice coefficient of classes."""
