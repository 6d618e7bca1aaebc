# SPDX-License-Identifier: Apache-2.0
"""Where the papers have their blocks in a residual network of any depth."""

from collections.abc import Sequence

Places = dict[int, tuple[int, ...]]
"""Zero-based residual blocks by stage."""


def after_each_run(depths: Sequence[int], rank: int) -> Places:
    """Return the last residual block of each run of stages 2 and 3, of which ResNet-50 has five.

    Wang et al., "Non-local Neural Networks", CVPR 2018: after every second residual block of
    ResNet-50, and likewise five in deeper networks; bilinear attention (Chi, Yuan, Mu et al., CVPR
    2020) is at the same places.
    """
    return {s: tuple(range(run - 1, depths[s - 1], run)) for s, run in _runs(depths).items()}


def at_the_start_of_each_run(depths: Sequence[int], rank: int) -> Places:
    """Return the first residual block of each run; of images in stage 3 only (GloRe, CVPR 2019)."""
    return {
        s: tuple(range(0, depths[s - 1] - run + 1, run))
        for s, run in _runs(depths).items()
        if rank == 3 or s == 3
    }


def before_the_last(depths: Sequence[int], rank: int) -> Places:
    """Return the last but one residual block of stage 3 (Yue et al., NeurIPS 2018)."""
    return {3: (max(depths[2] - 2, 0),)}


def _runs(depths: Sequence[int]) -> dict[int, int]:
    """Return how many residual blocks make a run, in stages 2 and 3; each has one run at least."""
    runs = {2: max(2, depths[1] // 2), 3: max(2, depths[2] // 3)}
    return {stage: min(run, depths[stage - 1]) for stage, run in runs.items()}
