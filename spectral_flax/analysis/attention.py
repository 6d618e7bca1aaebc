# SPDX-License-Identifier: Apache-2.0
"""What the attention blocks of a network look at, while it runs on images or clips."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from spectral_flax.analysis.calls import hooked
from spectral_flax.arrays import as_floating
from spectral_flax.layers.bilinear import BilinearAttention
from spectral_flax.layers.blocks import BLOCKS
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.messages import closest, several


@runtime_checkable
class Attention(Protocol):
    """A layer that can tell what a position of its map looks at."""

    def query_maps(self, x: jax.Array, position: tuple[int, ...]) -> dict[str, jax.Array]:
        """Return maps ``[N, *spatial]`` by name, given the layer's input and a position of it."""


@dataclasses.dataclass(frozen=True)
class BlockMaps:
    """What one block looks at.

    Attributes:
      weights: maps by name, ``[N, (T,) h, w]``, float32.
      position: of the query, (t,) y, x in the block's map; None: the maps are of all positions.
      size: of the block's map, (T,) H, W; keys may be fewer.
    """

    weights: dict[str, np.ndarray]
    position: tuple[int, ...] | None
    size: tuple[int, ...]


def attention_maps(
    model: nnx.Module,
    images: ArrayLike,
    *,
    at: Sequence[int] | None = None,
    block: str | None = None,
) -> dict[str, BlockMaps]:
    """Return what each block of a network looks at, by the block's name, such as "stage3.2".

    Non-local blocks give the softmax of one query over all positions, criss-cross attention its
    weights composed over the recurrences, double attention what the query's descriptors gather;
    never a number for each pair of positions. Bilinear attention gives the re-projection
    ``P^T A Q^T`` of each group (and frame), where A are the mean activations, or, with ``at``, a
    single one. Running statistics are used and nothing is dropped.

    Args:
      model: a network, or a block with maps itself.
      images: its input, ``[N, H, W, C]``, or clips ``[N, T, H, W, C]``.
      at: the query, y, x in pixels of the input (t, y, x in a clip; its middle frame unless given).
        None: the centre, and of bilinear attention the mean of all.
      block: only this one.

    Raises:
      ValueError: no block has maps, or there is none of that name; or ``at`` lies outside.
    """
    images = as_floating(images=images)
    if at is not None:
        check_pixel(at, images.shape[1:-1])
    blocks = blocks_with_maps(model)
    if block is not None and block not in blocks:
        raise ValueError(f"block={block!r}; {closest(block, blocks)}")
    blocks = blocks if block is None else [block]
    graphdef, state = nnx.split(evaluation_mode(model))
    found: dict[str, tuple] = {}

    def run(state, x):
        maps: dict[str, list[jax.Array]] = {}

        def hook(path, module, call, *args):
            if path in blocks:
                size, position = args[0].shape[1:-1], None
                if isinstance(module, BilinearAttention) and at is None:
                    named = module.attention_maps(args[0]).by_group()
                else:
                    position = position_of(at, images.shape[1:-1], size)
                    named = module.query_maps(args[0], position)
                maps[path] = list(named.values())
                found[path] = tuple(named), position, size
            return call(*args)

        network = nnx.merge(graphdef, state, copy=True)
        with hooked(network, hook):
            network(x)
        return maps

    arrays = jax.jit(run)(state, images)
    result = {}
    for path, (names, position, size) in found.items():
        maps = (np.asarray(m, np.float32) for m in arrays[path])
        result[path] = BlockMaps(dict(zip(names, maps, strict=True)), position, size)
    return result


def blocks_with_maps(model: nnx.Module) -> list[str]:
    """Return the names of the blocks that have maps, those within others left out.

    Raises:
      ValueError: there is none.
    """
    modules = nnx.iter_modules(model)
    paths = [".".join(map(str, path)) for path, m in modules if isinstance(m, Attention)]
    if not paths:
        makers = {name: row.options_of or row.make for name, row in BLOCKS.items()}
        with_maps = [
            n for n, m in makers.items() if isinstance(m, type) and issubclass(m, Attention)
        ]
        raise ValueError(
            f"{type(model).__name__} has no attention maps; networks with the blocks "
            f"{several(with_maps)} have them, as resnet50_nl, and ccnet_resnet101"
        )
    return [path for path in paths if not any(_is_within(path, outer) for outer in paths)]


def _is_within(path: str, outer: str) -> bool:
    return path != outer and (not outer or path.startswith(f"{outer}."))


def check_pixel(at: Sequence[int], size: Sequence[int]) -> None:
    """Raise ValueError unless ``at`` is a pixel of an image, or clip, of ``size``, (T,) H, W."""
    given, lengths = tuple(at), tuple(size)
    if len(given) not in (2, len(lengths)) or any(
        not 0 <= p < n for p, n in zip(given, lengths[-len(given) :], strict=True)
    ):
        *frames, height, width = lengths
        expected = f"y, x in 0 ... {height - 1}, 0 ... {width - 1}"
        if frames:
            expected += f", or t, y, x with t in 0 ... {frames[0] - 1}"
        raise ValueError(f"at={given}; expected {expected}")


def position_of(
    at: Sequence[int] | None, size: Sequence[int], map_size: Sequence[int]
) -> tuple[int, ...]:
    """Return the position in a map that a pixel of the input falls on; None: the map's centre."""
    if at is None:
        return tuple(n // 2 for n in map_size)
    middle = [n // 2 for n in size[: len(size) - len(tuple(at))]]
    pixel = (*middle, *at)
    return tuple(p * m // n for p, n, m in zip(pixel, size, map_size, strict=True))


def scale_to_bytes(weights: ArrayLike) -> np.ndarray:
    """Scale each map to 0 ... 255: ``[..., H, W] -> [..., H, W]``, uint8.

    Its smallest weight becomes 0 and its largest 255; a constant map becomes 0.

    Raises:
      ValueError: weights are not finite, or have fewer than two axes.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim < 2:
        raise ValueError(f"weights have shape {weights.shape}; expected [..., H, W]")
    if not np.isfinite(weights).all():
        raise ValueError("weights are not all finite")
    low = weights.min((-2, -1), keepdims=True)
    span = weights.max((-2, -1), keepdims=True) - low
    return np.round(255 * (weights - low) / np.where(span > 0, span, 1)).astype(np.uint8)
