# SPDX-License-Identifier: Apache-2.0
"""Blocks of the table in a network: where they are, and with which options."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from spectral_flax.layers import blocks
from spectral_flax.layers.blocks import Builder, row_of
from spectral_flax.layers.places import Places, as_places
from spectral_flax.messages import closest

# Set by the network, so no options of its blocks.
_GIVEN = ("dtype", "param_dtype", "precision")


def published_places(block: str | Builder, depths: Sequence[int], rank: int) -> Places:
    """Return the residual blocks (stage → zero-based) that ``block`` follows by default.

    These are the published places for every published depth, and one place at least in each stage
    they concern for any other.
    """
    if len(depths) < 3:
        raise ValueError(f"depths={tuple(depths)} has no stage 3; name blocks_at")
    return row_of(block)[1].places(depths, rank)


def inserted_blocks(
    block: str | Builder | None,
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
    name, row = row_of(block)
    known = [option for option in blocks.block_options(block) if option not in _GIVEN]
    known += [option for option in row.size_options if option not in known]
    for option in options or {}:
        if option not in known:
            raise TypeError(f"block {name!r} has no option {option!r}; {closest(option, known)}")
    layers = (3 if bottleneck else 2) * sum(depths) + 2
    options = row.network_options(layers, rank) | dict(options or {})
    if blocks_at is None:
        blocks_at = published_places(block, depths, rank)
    build = functools.partial(_build, block, row, options)
    return dict(block=build, blocks_at=as_places(blocks_at, "blocks_at"))


def _build(block, row, options, features, *, rank, size, **given):
    options = row.for_map(options, size)
    return blocks.block(block, features, rank=rank, **options, **given)
