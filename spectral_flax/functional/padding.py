# SPDX-License-Identifier: Apache-2.0
"""Padding that shards."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from spectral_flax.kernels.convolution import whole_maps


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
    the axis, XLA moves twice the data for that. So within `kernels.whole_maps` of False zeros are
    padded, and each position among them chosen from its mirror image: pieces padded to the whole
    length would be whole maps on every device. A margin as long as its axis is left to ``jnp.pad``.
    """
    for axis, margin in enumerate(margins, start=1):
        size = x.shape[axis]
        if margin >= size or (margin and whole_maps.value):
            pads = [(margin, margin) if i == axis else (0, 0) for i in range(x.ndim)]
            x = jnp.pad(x, pads, mode="reflect")
        elif margin:
            pads = [(margin, margin, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
            padded = lax.pad(x, jnp.zeros((), x.dtype), pads)
            shape = [size + 2 * margin if i == axis else 1 for i in range(x.ndim)]
            positions = lax.broadcasted_iota(jnp.int32, shape, axis)
            for away in range(1, margin + 1):
                for edge, mirrored in ((0, away), (size - 1, size - 1 - away)):
                    image = lax.slice_in_dim(x, mirrored, mirrored + 1, axis=axis)
                    place = margin + 2 * edge - mirrored
                    padded = jnp.where(positions == place, image, padded)
            x = padded
    return x
