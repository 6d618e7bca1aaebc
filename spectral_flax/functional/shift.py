# SPDX-License-Identifier: Apache-2.0
"""Shift of channels between the frames of a clip."""

import jax
import jax.numpy as jnp

from spectral_flax.arrays import as_floating


def temporal_shift(x: jax.Array, share: int = 8) -> jax.Array:
    """Move some channels by a frame: ``[N, T, *spatial, C]`` to the same.

    The first ``C // share`` channels are those of the next frame, as many after them those of the
    frame before, the others stay; beyond the first and the last frame are zeros.

    Raises:
      ValueError: ``share`` is not 2 or more, or there is no axis of time.

    Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.
    """
    x = as_floating(x=x)
    if share < 2:
        raise ValueError(f"share={share}; expected 2 or more: two parts are moved")
    if x.ndim < 3:
        raise ValueError(f"x has shape {x.shape}; expected at least the axes [N, T, C]")
    width = x.shape[-1] // share
    zeros = jnp.zeros_like(x[:, :1, ..., :width])
    following = jnp.concatenate([x[:, 1:, ..., :width], zeros], 1)
    preceding = jnp.concatenate([zeros, x[:, :-1, ..., width : 2 * width]], 1)
    return jnp.concatenate([following, preceding, x[..., 2 * width :]], -1)
