# SPDX-License-Identifier: Apache-2.0
"""Pencil decomposition: operations along both sides of a map that is split over devices.

An operation along W needs whole rows and one along H whole columns. A device computes the one on
its rows, sends every other device their part of its result and gets whole columns for the other,
by one all-to-all. Sides need not be multiples of the number of devices: the last ones have less.

Grady et al., "Model-Parallel Fourier Neural Operators as Learned Surrogates for Large-Scale
Parametric PDEs", arXiv 2204.01205, does so for Fourier neural operators.
"""

import jax
import jax.numpy as jnp
from jax import lax

Names = str | tuple[str, ...]


def exchange(x: jax.Array, names: Names, *, split: int, join: int, size: int) -> jax.Array:
    """Split one axis over the devices along ``names``, and join another that was split before.

    ``size`` is the length of the joined axis; what its parts have beyond that is cut off. The axis
    to split is padded to a multiple of the devices.
    """
    split, join = split % x.ndim, join % x.ndim
    missing = -x.shape[split] % lax.axis_size(names)
    x = jnp.pad(x, [(0, missing if axis == split else 0) for axis in range(x.ndim)])
    x = lax.all_to_all(x, names, split, join, tiled=True)
    return lax.slice_in_dim(x, 0, size, axis=join)
