# SPDX-License-Identifier: Apache-2.0
"""Flax NNX layers: parameters around the functions of `spectral_flax.functional`."""

from spectral_flax.layers.attention import (
    CrissCrossAttention,
    DoubleAttention,
    GraphReasoning,
    RecurrentCrissCross,
    SqueezeExcite,
)
from spectral_flax.layers.bilinear import (
    AttentionMaps,
    BilinearAttention,
    BilinearTransform,
    bat,
    bat3d,
)
from spectral_flax.layers.blocks import BLOCKS, block, block_options, register_block
from spectral_flax.layers.conv import conv, linear
from spectral_flax.layers.ffc import FFC, FourierUnit, SpectralTransform
from spectral_flax.layers.folding import fold_batch_norm
from spectral_flax.layers.learned_pairs import HouseholderPair, RetractedPair
from spectral_flax.layers.non_local import (
    CompactNonLocal,
    NonLocal,
    compact_non_local_rbf,
    non_local,
)
from spectral_flax.layers.norm import BatchNorm, ConvNormAct
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.layers.spectral import (
    SpectralResidual,
    SpectrumReLU,
    srl_dct,
    srl_fft,
    srl_lo,
)
from spectral_flax.layers.spectral_filters import (
    FourierMixer,
    GlobalFilter,
    SpectralConvolution,
)

__all__ = [
    "BLOCKS",
    "FFC",
    "AttentionMaps",
    "BatchNorm",
    "BilinearAttention",
    "BilinearTransform",
    "CompactNonLocal",
    "ConvNormAct",
    "CrissCrossAttention",
    "DoubleAttention",
    "FourierMixer",
    "FourierUnit",
    "GlobalFilter",
    "GraphReasoning",
    "HouseholderPair",
    "NonLocal",
    "Numerics",
    "RecurrentCrissCross",
    "Rematerialisable",
    "RetractedPair",
    "SpectralConvolution",
    "SpectralResidual",
    "SpectralTransform",
    "SpectrumReLU",
    "SqueezeExcite",
    "bat",
    "bat3d",
    "block",
    "block_options",
    "compact_non_local_rbf",
    "conv",
    "fold_batch_norm",
    "linear",
    "non_local",
    "register_block",
    "srl_dct",
    "srl_fft",
    "srl_lo",
]
