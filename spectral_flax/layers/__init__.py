# SPDX-License-Identifier: Apache-2.0
"""Flax NNX layers: parameters and a functional call or two each."""

from spectral_flax.layers.basic import BatchNorm, ConvNormAct, SqueezeExcite, conv, linear
from spectral_flax.layers.ffc import FFC, FourierUnit, SpectralTransform

__all__ = [
    "FFC",
    "BatchNorm",
    "ConvNormAct",
    "FourierUnit",
    "SpectralTransform",
    "SqueezeExcite",
    "conv",
    "linear",
]
