# SPDX-License-Identifier: Apache-2.0
"""Maps of half and of double resolution, between which octave convolutions exchange channels."""

import jax
import jax.numpy as jnp

from spectral_flax.arrays import as_floating
from spectral_flax.functional.pooling import average_pool


def octave_down(x: jax.Array) -> jax.Array:
    """Average blocks of 2 x 2 pixels: ``[N, *, H, W, C] -> [N, *, H/2, W/2, C]``.

    Frames of a video are averaged one by one.

    Raises:
      ValueError: H or W is odd, or there is no such axis.

    Chen et al., "Drop an Octave", ICCV 2019.
    """
    x = as_floating(x=x)
    if x.ndim < 4 or x.shape[-3] % 2 or x.shape[-2] % 2:
        raise ValueError(f"x has shape {x.shape}; expected [N, H, W, C] with even H and W")
    return average_pool(x, (1,) * (x.ndim - 4) + (2, 2))


def octave_up(x: jax.Array) -> jax.Array:
    """Repeat each pixel 2 x 2 times: ``[N, *, H, W, C] -> [N, *, 2H, 2W, C]``.

    Raises:
      ValueError: there is no such axis.
    """
    x = as_floating(x=x)
    if x.ndim < 4:
        raise ValueError(f"x has shape {x.shape}; expected [N, H, W, C]")
    *lead, height, width, features = x.shape
    repeated = (*lead, height, 2, width, 2, features)
    x = jnp.broadcast_to(x[..., :, None, :, None, :], repeated)
    return x.reshape(*lead, 2 * height, 2 * width, features)
