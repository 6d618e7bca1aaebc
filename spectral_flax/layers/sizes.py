# SPDX-License-Identifier: Apache-2.0
"""Options of blocks that follow from the size of their map, given the others."""

from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]


def map_size(options: Options, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the size of the transformed axes of a map of ``size``, (T,) H, W."""
    return {"size": size if options.get("transform_time") else size[-2:]}


def spectrum(options: Options, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the map size of a `SpectrumReLU`, where there is one."""
    if not options.get("spectrum_relu"):
        return {}
    return {"spectrum_size": map_size(options, size)["size"]}


def modes(options: Options, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the frequencies that a Fourier operator keeps: eight rows, five columns, four frames.

    Of smaller maps all there are.
    """
    *others, width = size
    kept = (4, 8)[-len(others) :]
    rows = (min(n, side) for n, side in zip(kept, others, strict=True))
    return {"modes": (*rows, min(5, width // 2 + 1))}


def grid(options: Options, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the published 7 x 7 positions, or the fewer there are."""
    return {"grid": min(7, *size[-2:])}


def grids(options: Options, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the published 7 x 7 positions and 4 frames, or the fewer there are."""
    return {"temporal_grid": min(4, size[0])} | grid(options, size)
