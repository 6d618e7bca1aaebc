# SPDX-License-Identifier: Apache-2.0
"""Edge padding that shards."""

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
