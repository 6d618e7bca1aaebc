# SPDX-License-Identifier: Apache-2.0
"""Flax NNX layers: parameters around the functions of `spectral_flax.functional`."""

from spectral_flax.layers.atrous import AtrousPyramid
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
from spectral_flax.layers.deformable import DeformableConv
from spectral_flax.layers.ffc import FFC, FourierUnit, SpectralTransform
from spectral_flax.layers.folding import fold_batch_norm
from spectral_flax.layers.learned_pairs import HouseholderPair, RetractedPair
from spectral_flax.layers.non_local import (
    CompactNonLocal,
    NonLocal,
    compact_non_local_rbf,
    non_local,
)
from spectral_flax.layers.norm import BatchNorm, ConvNormAct, NormActConv
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.octave import OctaveConv, OctaveConvNormAct
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
from spectral_flax.layers.video_conv import FactorisedConv, RelationConv

__all__ = [
    "BLOCKS",
    "FFC",
    "AtrousPyramid",
    "AttentionMaps",
    "BatchNorm",
    "BilinearAttention",
    "BilinearTransform",
    "CompactNonLocal",
    "ConvNormAct",
    "CrissCrossAttention",
    "DeformableConv",
    "DoubleAttention",
    "FactorisedConv",
    "FourierMixer",
    "FourierUnit",
    "GlobalFilter",
    "GraphReasoning",
    "HouseholderPair",
    "NonLocal",
    "NormActConv",
    "Numerics",
    "OctaveConv",
    "OctaveConvNormAct",
    "RecurrentCrissCross",
    "RelationConv",
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
