# SPDX-License-Identifier: Apache-2.0
"""Which blocks stand where in a residual network, and with which of their options.

The places are the published ones. Non-local blocks of videos: Wang et al., CVPR 2018, after
every second residual block of stages 2 and 3 of ResNet-50, five in all, and likewise five in
deeper networks; bilinear attention (Chi, Yuan, Mu et al., CVPR 2020) at the same places.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from spectral_flax.layers import blocks
from spectral_flax.layers.blocks import BLOCKS
from spectral_flax.messages import closest

# Set by the network, so no options of its blocks.
_GIVEN = ("dtype", "param_dtype", "precision")


def published_places(block: str, depths: Sequence[int], rank: int) -> dict[int, tuple[int, ...]]:
    """Return after which residual blocks (stage → zero-based) ``block`` stands by default.

    The rules give the published places for every published depth, and one place at least in each
    stage they concern for any other.
    """
    if len(depths) < 3:
        raise ValueError(f"depths={tuple(depths)} has no stage 3; name blocks_at")
    if block.startswith("cgnl"):  # Yue et al., NeurIPS 2018: one, before the last residual block
        return {3: (max(depths[2] - 2, 0),)}
    runs = {2: max(2, depths[1] // 2), 3: max(2, depths[2] // 3)}
    runs = {stage: min(run, depths[stage - 1]) for stage, run in runs.items()}
    if block == "glore":  # Chen et al., CVPR 2019: after the first of each run; images stage 3 only
        stages = (2, 3) if rank == 3 else (3,)
        return {s: tuple(range(0, depths[s - 1] - runs[s] + 1, runs[s])) for s in stages}
    return {s: tuple(range(run - 1, depths[s - 1], run)) for s, run in runs.items()}


def inserted_blocks(
    block: str | None,
    blocks_at: Mapping[int, Sequence[int]] | None,
    options: Mapping[str, Any] | None,
    depths: Sequence[int],
    bottleneck: bool,
    *,
    rank: int,
) -> dict[str, Any]:
    """Return the arguments ``block`` and ``blocks_at`` of a `ResNet`, given those of a model.

    ``options`` are those of the block; where they are silent, the published network's. A block
    that depends on the size of its map gets it from the network.

    Raises:
      ValueError: no such block, or places or options of a block and no block.
      TypeError: no such option.
    """
    if block is None:
        for name, value in ("blocks_at", blocks_at), ("block_options", options):
            if value:
                raise ValueError(f"{name}={value!r} but block=None: no block to insert")
        return {}
    if block not in BLOCKS:
        raise ValueError(f"block={block!r}; {closest(block, BLOCKS)}")
    known = block_options(block)
    for option in options or {}:
        if option not in known:
            raise TypeError(f"block {block!r} has no option {option!r}; {closest(option, known)}")
    layers = (3 if bottleneck else 2) * sum(depths) + 2
    options = _published_options(block, layers, rank) | dict(options or {})
    if blocks_at is None:
        blocks_at = published_places(block, depths, rank)
    build = functools.partial(_build, block, options)
    return dict(block=build, blocks_at=_as_places(blocks_at))


def block_options(block: str) -> list[str]:
    """Return the names of the options of a block in a network."""
    known = [option for option in blocks.block_options(block) if option not in _GIVEN]
    return [*known, "spectrum_relu"] if block == "srl_fft" else known


def _as_places(blocks_at: Mapping) -> dict[int, tuple[int, ...]]:
    try:  # keys that went through JSON are text
        return {int(stage): tuple(indices) for stage, indices in blocks_at.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"blocks_at={blocks_at!r}; expected residual blocks by stage, as {{2: (1, 3)}}"
        ) from None


def _published_options(block: str, layers: int, rank: int) -> dict[str, Any]:
    """Return what the published networks, of so many layers, ask of their blocks."""
    if block == "bat" and rank == 2 and layers <= 34:
        return {"dropout": 0.0}
    if block == "glore" and rank == 2:
        return {"normalize": True}
    return {}


def _build(block, options, features, *, rank, size, **given):
    options = dict(options)
    transformed = size if options.get("transform_time") else size[-2:]
    if block == "srl_fft" and options.pop("spectrum_relu", False):
        options["spectrum_size"] = transformed
    if block in ("bat", "bat3d"):  # published: 7 x 7 positions, 4 frames; or the fewer there are
        options.setdefault("grid", min(7, *size[-2:]))
    if block == "bat3d":
        options.setdefault("temporal_grid", min(4, size[0]))
    size = options.pop("size", transformed)
    return blocks.block(block, features, rank=rank, size=size, **options, **given)
