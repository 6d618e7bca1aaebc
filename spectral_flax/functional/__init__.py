# SPDX-License-Identifier: Apache-2.0
"""Pure functions on arrays: no Flax, no state, no options but their arguments."""

from spectral_flax.functional.convolution import convolution
from spectral_flax.functional.fourier import (
    irfft2,
    irfft3,
    rfft2,
    rfft3,
    split_quarters,
    tile_quarters,
)
from spectral_flax.functional.pooling import adaptive_average_pool, adaptive_max_pool, average_pool
from spectral_flax.functional.sharding import batch_parallel

__all__ = [
    "adaptive_average_pool",
    "adaptive_max_pool",
    "average_pool",
    "batch_parallel",
    "convolution",
    "irfft2",
    "irfft3",
    "rfft2",
    "rfft3",
    "split_quarters",
    "tile_quarters",
]
