# SPDX-License-Identifier: Apache-2.0
"""Options of pose estimation."""

import dataclasses

from train.fields import Count, Path
from train.task import TaskOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """Targets, test, and weights to start from."""

    sigma: Count | None = None
    """Deviation of the targets' Gaussians, in pixels of the heatmap; None: 2 for each 64 rows."""
    flip_test: bool = True
    """Average the heatmaps with those of mirrored images in the test."""
    boxes: Path | None = None
    """File of a detector's boxes to test in; None: the annotated boxes."""
    encoder_weights: Path | None = None
    """File of a classifier's weights that the encoder starts from, when a run begins."""
