# SPDX-License-Identifier: Apache-2.0
"""Places in a residual network: where the papers have their blocks, of any depth."""

from collections.abc import Mapping, Sequence

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


def as_places(given: Mapping, name: str) -> Places:
    """Return places as a user gave them for the argument ``name``, which JSON may have been.

    Raises:
      ValueError: they are not residual blocks by stage.
    """
    try:  # keys that went through JSON are text
        return {int(stage): tuple(indices) for stage, indices in given.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"{name}={given!r}; expected residual blocks by stage, as {{2: (1, 3)}}"
        ) from None


def check_places(name: str, places: Places, depths: Sequence[int]) -> Places:
    """Return the places of the argument ``name``, which a network of these depths has.

    Raises:
      ValueError: it does not.
    """
    for stage, indices in places.items():
        if not 1 <= stage <= len(depths):
            raise ValueError(f"{name} names stage {stage}; expected 1 to {len(depths)}")
        for i in indices:
            if not 0 <= i < depths[stage - 1]:
                raise ValueError(
                    f"{name} names number {i} of stage {stage}, "
                    f"which has {depths[stage - 1]} (from 0)"
                )
    return places
