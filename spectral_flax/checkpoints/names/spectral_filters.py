# SPDX-License-Identifier: Apache-2.0
"""Names of published spectral filters: GFNet, AFNO-transformer, Fourier neural operators."""

import numpy as np

from spectral_flax.checkpoints.names.layouts import Layout, single
from spectral_flax.checkpoints.names.tables import Rule, register_rules
from spectral_flax.layers.spectral_filters import FourierMixer, GlobalFilter, SpectralConvolution
from spectral_flax.models.fno import FNO
from spectral_flax.models.gfnet import GFNet

# [*grid, C, re/im] <-> [*grid, re/im, C] as one axis
packed = single(
    lambda w: np.moveaxis(w, -1, -2).reshape(*w.shape[:-2], -1),
    lambda w: np.moveaxis(w.reshape(*w.shape[:-1], 2, -1), -2, -1),
)

GLOBAL_FILTER = [Rule("weight", "complex_weight", packed)]

FOURIER_MIXER = [
    Rule(f"{ours}{n}", f"{theirs}{n}") for ours, theirs in (("kernel", "w"), ("bias", "b"))
    for n in (1, 2)
]  # fmt: skip


def _from_complex(w: np.ndarray) -> np.ndarray:
    """``complex [I, O, *modes] -> [*modes, re/im, I, O]``."""
    w = np.moveaxis(np.asarray(w), (0, 1), (-2, -1))
    return np.stack([w.real, w.imag], -3)


def _to_complex(kernel: np.ndarray) -> np.ndarray:
    w = kernel[..., 0, :, :] + 1j * kernel[..., 1, :, :]
    return np.moveaxis(w, (-2, -1), (0, 1)).astype(np.complex64)


_complex = Layout(
    lambda arrays, _: _from_complex(arrays[0]), lambda a, _: [_to_complex(a)], of_complex=True
)

# neuraloperator: one weight, negative rows first, as ours.
SHIFTED = [
    Rule("kernel", "weight.tensor", _complex),
    Rule("bias", "bias", single(lambda b: b.reshape(-1), lambda b: b.reshape(-1, 1, 1))),
]


def _joined(arrays, _) -> np.ndarray:
    low, high = (_from_complex(a) for a in arrays)  # rows from 0 on, and the negative ones
    return np.concatenate([high, low])


def _split(kernel: np.ndarray, _) -> list[np.ndarray]:
    negative = len(kernel) // 2
    return [_to_complex(kernel[negative:]), _to_complex(kernel[:negative])]


# The original code: two weights, of the rows from 0 on and of the negative ones.
_two_weights = Layout(_joined, _split, of_complex=True)
ORIGINAL = [Rule("kernel", ("weights1", "weights2"), _two_weights)]

register_rules(GlobalFilter, GLOBAL_FILTER, "GFNet")
register_rules(FourierMixer, FOURIER_MIXER, "AFNO-transformer")
register_rules(SpectralConvolution, SHIFTED, "neuraloperator")
register_rules(SpectralConvolution, ORIGINAL, "fourier_2d.py")

# [1, tokens, C] <-> [H, W, C]
_places = Layout(
    lambda arrays, model: arrays[0].reshape(*model.grid, -1),
    lambda array, model: [array.reshape(1, -1, array.shape[-1])],
)

register_rules(
    GFNet,
    [
        Rule("positions", "pos_embed", _places),
        Rule("patches", "patch_embed.proj"),
        Rule(r"blocks\.(?P<n>\d+)\.norm(?P<m>\d)", "blocks.{n}.norm{m}"),
        Rule(r"blocks\.(?P<n>\d+)\.filter\.weight", "blocks.{n}.filter.complex_weight", packed),
        Rule(r"blocks\.(?P<n>\d+)\.linear(?P<m>\d)", "blocks.{n}.mlp.fc{m}"),
        Rule("norm", "norm"),
        Rule("head", "head"),
    ],
    "GFNet",
)

register_rules(
    FNO,
    [
        Rule("lift", "fc0"),
        Rule(
            r"spectral\.(?P<n>\d+)\.kernel",
            ("conv{n}.weights1", "conv{n}.weights2"),
            _two_weights,
        ),
        Rule(r"pointwise\.(?P<n>\d+)", "w{n}"),
        Rule("hidden", "fc1"),
        Rule("project", "fc2"),
    ],
    "fourier_2d.py",
)
