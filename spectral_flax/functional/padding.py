# SPDX-License-Identifier: Apache-2.0
"""Padding that shards."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def repeat_last(x: jax.Array, size: int, axis: int) -> jax.Array:
    """Extend ``axis`` to ``size`` by repeating its last position.

    Not ``jnp.pad``, whose gradient goes over all axes: over a batch split among devices, XLA makes
    each send a part of its map to another.
    """
    missing = size - x.shape[axis]
    if not missing:
        return x
    last = lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
    return jnp.concatenate([x, *[last] * missing], axis=axis)


def reflect(x: jax.Array, margins: Sequence[int]) -> jax.Array:
    """Pad by reflection: ``[N, *spatial, C]``, by as many positions as ``margins`` says.

    The numbers of ``jnp.pad(mode="reflect")``, which glues pieces together: where devices share
    the axis, XLA moves twice the data for that. A margin as long as its axis is left to it.
    """
    for axis, margin in enumerate(margins, start=1):
        size = x.shape[axis]
        if margin >= size:
            pads = [(margin, margin) if i == axis else (0, 0) for i in range(x.ndim)]
            x = jnp.pad(x, pads, mode="reflect")
        elif margin:
            first = lax.slice_in_dim(x, 1, margin + 1, axis=axis)
            last = lax.slice_in_dim(x, size - margin - 1, size - 1, axis=axis)
            first, last = (lax.rev(part, (axis,)) for part in (first, last))
            x = _zeros_around(x, margin, margin, axis)
            x += _zeros_around(first, 0, size + margin, axis)
            x += _zeros_around(last, size + margin, 0, axis)
    return x


def _zeros_around(x, before, after, axis):
    margins = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), margins)
