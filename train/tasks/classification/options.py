# SPDX-License-Identifier: Apache-2.0
"""Options of classification."""

import dataclasses
from typing import Literal

from train.fields import BelowOne, Count, NonNegative
from train.task import TaskOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """How targets are softened and mixed, and how views are evaluated."""

    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """cross_entropy of the softmax; bce: of each class by itself, as if it were a question."""
    label_smoothing: BelowOne = 0.0
    """Part of the target spread evenly over all classes."""
    mixup: NonNegative = 0.0
    """Blend images and targets in pairs, with shares drawn from Beta(mixup, mixup); 0: do not."""
    cutmix: NonNegative = 0.0
    """Paste patches between images, with areas drawn from Beta(cutmix, cutmix); 0: do not."""
    views_at_once: Count | None = None
    """Views of each example that evaluation computes together, for their memory; None: all."""

    @property
    def examples_together(self) -> int:
        """How many examples must be on one device: mixing is of pairs."""
        return 2 if self.mixup or self.cutmix else 1
