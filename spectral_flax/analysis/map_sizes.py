# SPDX-License-Identifier: Apache-2.0
"""Sizes of the maps that a network makes, found without computing them."""

import jax
from flax import nnx

from spectral_flax.layers.modes import evaluation_mode


def map_sizes(model: nnx.Module, images: jax.Array) -> dict[str, tuple[int, ...]]:
    """Return the size of each map of ``features``, (T,) H, W, in the order of computation.

    Raises:
      TypeError: the model has no ``features``.
    """
    if not hasattr(model, "features"):
        raise TypeError(f"{type(model).__name__} has no features(x), which names its maps")
    graphdef, state = nnx.split(evaluation_mode(model))
    sizes: dict[str, tuple[int, ...]] = {}

    def trace(state, x):  # the dictionary itself would come out in the order of its keys
        maps = nnx.merge(graphdef, state, copy=True).features(x)
        sizes.update({name: map_.shape[1:-1] for name, map_ in maps.items()})

    jax.eval_shape(trace, state, images)
    return sizes


def fewest_rows(model: nnx.Module, images: jax.ShapeDtypeStruct) -> tuple[int, str]:
    """Return the rows of the smallest map for images ``[N, ..., H, W, C]``, and which one it is.

    Of a model without ``features`` the images are all that is known.
    """
    sizes = map_sizes(model, images) if hasattr(model, "features") else {}
    rows = [(size[-2], f"the maps {name!r}") for name, size in sizes.items() if len(size) > 1]
    return min([(images.shape[-3], "the images"), *rows], key=lambda of: of[0])
