# SPDX-License-Identifier: Apache-2.0
"""Pencil decomposition: operations along both sides of a map that is split over devices.

An operation along W needs whole rows and one along H whole columns. A device computes the one on
its rows, sends every other device their part of its result and gets whole columns for the other,
by one all-to-all. Sides need not be multiples of the number of devices: the last ones have less.

Grady et al., "Model-Parallel Fourier Neural Operators as Learned Surrogates for Large-Scale
Parametric PDEs", arXiv 2204.01205, does so for Fourier neural operators.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from spectral_flax.kernels.batch_parallel import batch_parallel

Names = str | tuple[str, ...]


def exchange(x: jax.Array, names: Names, *, split: int, join: int, size: int) -> jax.Array:
    """Split one axis over the devices along ``names``, and join another that was split before.

    ``size`` is the length of the joined axis; what its parts have beyond that is cut off. The axis
    to split is padded to a multiple of the devices.
    """
    split, join = split % x.ndim, join % x.ndim
    devices = lax.axis_size(names)
    # Zero, which the compiler does not know: XLA's for CPUs fails on parts, here or in the
    # gradient, that it sees to be zeros alone, as a device's without a row or column are.
    start = lax.axis_index(names) // devices
    if missing := -x.shape[split] % devices:
        shape = [n + missing if axis == split else n for axis, n in enumerate(x.shape)]
        x = lax.dynamic_update_slice_in_dim(jnp.zeros(shape, x.dtype), x, start, split)
    x = lax.all_to_all(x, names, split, join, tiled=True)
    return x if x.shape[join] == size else lax.dynamic_slice_in_dim(x, start, size, join)


def by_columns(x: jax.Array) -> jax.Array:
    """Return the map ``[..., H, W, C]``, which devices share by columns if they did by rows."""
    return _redistributed(x, x.ndim - 3, x.ndim - 2)


def by_rows(x: jax.Array) -> jax.Array:
    """Return the map ``[..., H, W, C]``, which devices share by rows if they did by columns."""
    return _redistributed(x, x.ndim - 2, x.ndim - 3)


def _redistributed(x, before, after):
    batch = 0 if x.ndim > 3 else None
    identity = _Identity(split=after, join=before, size=x.shape[before])
    options = dict(batch=(batch,), out=batch, split=(before,), split_out=after)
    return batch_parallel(identity, x, **options)


@dataclasses.dataclass(frozen=True)
class _Identity:
    """The identity, and the exchange that it is where devices share the axis ``join``."""

    split: int
    join: int
    size: int

    def __call__(self, x: jax.Array) -> jax.Array:
        return x

    def across(self, names: Names) -> Callable[[jax.Array], jax.Array]:
        options = dict(split=self.split, join=self.join, size=self.size)
        return functools.partial(exchange, names=names, **options)
