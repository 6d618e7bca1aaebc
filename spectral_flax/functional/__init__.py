# SPDX-License-Identifier: Apache-2.0
"""Pure functions on arrays: no Flax, no state, no options but their arguments."""

from spectral_flax.functional import keypoints, pairs
from spectral_flax.functional.attention import (
    compact_attention,
    concatenation_attention,
    criss_cross_attention,
    dot_product_attention,
    double_attention,
    gather_nodes,
    scatter_nodes,
    softmax_attention,
)
from spectral_flax.functional.bilinear import bilinear_product, reproject, temporal_product
from spectral_flax.functional.deformable import deformable_convolution
from spectral_flax.functional.fourier import (
    RealFFT,
    irfft2,
    irfft3,
    rfft2,
    rfft3,
)
from spectral_flax.functional.octaves import octave_down, octave_up
from spectral_flax.functional.orthogonal import (
    apply_reflectors,
    matrix_to_reflectors,
    orthogonal_matrix,
    qr_retraction,
    random_orthogonal,
    random_reflectors,
)
from spectral_flax.functional.pooling import (
    adaptive_average_pool,
    adaptive_max_pool,
    average_pool,
    max_pool,
)
from spectral_flax.functional.quarters import split_quarters, tile_quarters
from spectral_flax.functional.shift import temporal_shift
from spectral_flax.functional.spectral_filters import (
    fourier_mixer,
    global_filter,
    spectral_convolution,
)
from spectral_flax.kernels.batch_parallel import batch_parallel
from spectral_flax.kernels.convolution import convolution

__all__ = [
    "RealFFT",
    "adaptive_average_pool",
    "adaptive_max_pool",
    "apply_reflectors",
    "average_pool",
    "batch_parallel",
    "bilinear_product",
    "compact_attention",
    "concatenation_attention",
    "convolution",
    "criss_cross_attention",
    "deformable_convolution",
    "dot_product_attention",
    "double_attention",
    "fourier_mixer",
    "gather_nodes",
    "global_filter",
    "irfft2",
    "irfft3",
    "keypoints",
    "matrix_to_reflectors",
    "max_pool",
    "octave_down",
    "octave_up",
    "orthogonal_matrix",
    "pairs",
    "qr_retraction",
    "random_orthogonal",
    "random_reflectors",
    "reproject",
    "rfft2",
    "rfft3",
    "scatter_nodes",
    "softmax_attention",
    "spectral_convolution",
    "split_quarters",
    "temporal_product",
    "temporal_shift",
    "tile_quarters",
]
