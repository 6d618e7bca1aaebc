# SPDX-License-Identifier: Apache-2.0
"""One table of the blocks that may stand after any residual block."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from flax import nnx

from spectral_flax.layers.attention import (
    DoubleAttention,
    GraphReasoning,
    RecurrentCrissCross,
)
from spectral_flax.layers.bilinear import BilinearAttention, bat, bat3d
from spectral_flax.layers.non_local import (
    CompactNonLocal,
    NonLocal,
    compact_non_local_rbf,
    non_local,
)
from spectral_flax.layers.spectral import SpectralResidual, srl_fft, srl_lo
from spectral_flax.messages import closest


class Block(NamedTuple):
    """A constructor, the class whose options it passes on, and those that it sets itself."""

    make: Callable[..., nnx.Module]
    options_of: type[nnx.Module]
    set_options: tuple[str, ...] = ()


BLOCKS = {
    "nl": Block(non_local, NonLocal),
    "a2": Block(DoubleAttention, DoubleAttention),
    "cgnl": Block(CompactNonLocal, CompactNonLocal),
    "cgnl_rbf": Block(compact_non_local_rbf, CompactNonLocal),
    "rcca": Block(RecurrentCrissCross, RecurrentCrissCross),
    "glore": Block(GraphReasoning, GraphReasoning),
    "srl_fft": Block(srl_fft, SpectralResidual, ("pair",)),
    "srl_lo": Block(srl_lo, SpectralResidual, ("pair", "spectrum_size")),
    "bat": Block(bat, BilinearAttention),
    "bat3d": Block(bat3d, BilinearAttention),
}


def block(
    name: str,
    features: int,
    *,
    rank: int = 2,
    size: tuple[int, ...] | None = None,
    rngs: nnx.Rngs,
    **options,
) -> nnx.Module:
    """Build the block ``name`` of `BLOCKS`: ``[N, *spatial, features]`` to the same shape.

    ``rank`` is 2 for images ``[N, H, W, C]`` and 3 for videos ``[N, T, H, W, C]``. ``size`` is the
    map's H, W, which a block that learns a matrix for each axis ("srl_lo") needs and the others
    do not look at. ``options`` are those of the block.

    Raises:
      ValueError: no such block; ``size`` is missing; or an option has an impossible value.
      TypeError: the block has no such option.
    """
    if name not in BLOCKS:
        raise ValueError(f"no block {name!r}; {closest(name, BLOCKS)}")
    known = block_options(name)
    for option in options:
        if option not in known:
            raise TypeError(f"block {name!r} has no option {option!r}; {closest(option, known)}")
    if "size" in known:
        if size is None:
            raise ValueError(f"size=None; block {name!r} is built for maps of one size, (H, W)")
        options["size"] = tuple(size)
    return BLOCKS[name].make(features, rank=rank, rngs=rngs, **options)


def block_options(name: str) -> list[str]:
    """Return the names of the options that a block takes."""
    make, options_of, set_options = BLOCKS[name]
    parameters = _parameters(make)
    passed_on = [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    if passed_on:
        parameters |= _parameters(options_of)
    out = {"features", "rank", "rngs", *set_options, *(p.name for p in passed_on)}
    return [option for option in parameters if option not in out]


def _parameters(make):
    if not inspect.isclass(make):
        return dict(inspect.signature(make).parameters)
    # The metaclass of NNX modules hides the signature of the class itself.
    parameters = dict(inspect.signature(make.__init__).parameters)
    del parameters["self"]
    return parameters
