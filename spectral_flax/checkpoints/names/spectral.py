# SPDX-License-Identifier: Apache-2.0
"""Names of the published spectral residual blocks (SRL-Pose-Estimation)."""

import numpy as np

from spectral_flax.checkpoints.names.layouts import Layout, single, spectrum
from spectral_flax.checkpoints.names.tables import Rule, register_rules
from spectral_flax.functional.fourier import RealFFT
from spectral_flax.functional.orthogonal import matrix_to_reflectors
from spectral_flax.layers.spectral import SpectralResidual


def _layout_of(block: SpectralResidual) -> Layout:
    return spectrum if isinstance(block.pair, RealFFT) else single(np.asarray, np.asarray)


# Only a Fourier spectrum has real and imaginary channels to put in order.
of_the_pair = Layout(
    lambda arrays, block: _layout_of(block).from_torch(arrays, block),
    lambda array, block: _layout_of(block).to_torch(array, block),
)

# [1] <-> []
scalar = single(lambda a: a.reshape(()), lambda a: a.reshape(1))


def _matrix(reflectors: np.ndarray) -> np.ndarray:
    matrix = np.eye(len(reflectors))
    for v in np.asarray(reflectors, np.float64).T[::-1]:
        if v.any():
            v = v / np.abs(v).max()
            matrix -= np.outer(v, (2 / (v @ v)) * (v @ matrix))
    return matrix.astype(reflectors.dtype)


# [n, n] <-> [n, n]: an orthogonal matrix and the reflections it is the product of.
reflectors = single(matrix_to_reflectors, _matrix)

SPECTRAL_RESIDUAL = [
    Rule("gate", "alpha", scalar),
    Rule("conv", "conv_layer", of_the_pair),
    Rule("norm", "bn", of_the_pair),
    Rule("spectrum_relu", "relu"),
    Rule(r"pair\.row_reflectors", "source_P", reflectors),
    Rule(r"pair\.column_reflectors", "source_Q", reflectors),
    Rule(r"pair\.row_matrix", "source_P"),
    Rule(r"pair\.column_matrix", "source_Q"),
    # The published code has no such parts; these are names of our own for `save_torch`.
    Rule("reduce", "reduce_layer", of_the_pair),
    Rule("reduce_norm", "reduce_bn", of_the_pair),
    Rule(r"pair\.frame_reflectors", "source_T", reflectors),
    Rule(r"pair\.frame_matrix", "source_T"),
]

register_rules(SpectralResidual, SPECTRAL_RESIDUAL, "SRL")
