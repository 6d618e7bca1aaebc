# SPDX-License-Identifier: Apache-2.0
"""What spectral layers do: their gain at each frequency, thresholds, and orthogonal bases."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from spectral_flax.analysis.calls import hooked
from spectral_flax.arrays import as_floating
from spectral_flax.functional.fourier import RealFFT, rfft2
from spectral_flax.layers.ffc import FourierUnit
from spectral_flax.layers.learned_pairs import HouseholderPair, RetractedPair
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.layers.spectral import SpectralResidual
from spectral_flax.layers.spectral_filters import (
    FourierMixer,
    GlobalFilter,
    SpectralConvolution,
)

FILTERS = (FourierUnit, SpectralResidual, GlobalFilter, FourierMixer, SpectralConvolution)
"""Layers that have a frequency response."""


class Threshold(NamedTuple):
    """A learned ``max(0, scale * s + bias)`` of each frequency, ``[*grid]``."""

    scale: np.ndarray
    bias: np.ndarray

    @property
    def threshold(self) -> np.ndarray:
        """The value above which something passes, ``-bias / scale``; NaN where scale is 0.

        In standard deviations, since a normalisation precedes it.
        """
        return -self.bias / np.where(self.scale == 0, np.nan, self.scale)


def frequency_responses(model: nnx.Module, images: ArrayLike) -> dict[str, np.ndarray]:
    """Return the gain of each spectral layer at each frequency by its name: ``[H, W]`` of its map.

    The gain is the root of the output's energy over the input's at a frequency, each summed over
    channels, images and frames, as the layer meets them in the network: 1 where it leaves a
    frequency as strong as it was. Zero frequency is at ``[H // 2, W // 2]``. The convolution of a
    Fourier unit is the same at all frequencies, so that its response differs only by normalisation
    and ReLU, and hence by what the images hold.

    Raises:
      ValueError: the model has no such layer.
    """
    images = as_floating(images=images)
    check_spectral(model)
    graphdef, state = nnx.split(evaluation_mode(model))
    order: list[str] = []

    def run(state, x):
        gains = {}

        def hook(path, module, call, *args):
            y = call(*args)
            if isinstance(module, FILTERS):
                before, after = (_energy(map_) for map_ in (args[0], y))
                gain = jnp.sqrt(after / jnp.maximum(before, jnp.finfo(before.dtype).tiny))
                gains[path] = jnp.where(before > 0, gain, jnp.nan), args[0].shape[-2]
                order.append(path)
            return y

        network = nnx.merge(graphdef, state, copy=True)
        with hooked(network, hook):
            network(x)
        widths.update({path: width for path, (_, width) in gains.items()})
        return {path: gain for path, (gain, _) in gains.items()}

    widths: dict[str, int] = {}
    gains = jax.jit(run)(state, images)
    return {path: centred(np.asarray(gains[path]), widths[path]) for path in dict.fromkeys(order)}


def _energy(x: jax.Array) -> jax.Array:
    """Return the energy at each frequency of H and W, ``[H, W // 2 + 1]``, in float32."""
    s = rfft2(x.astype(jnp.float32))
    return jnp.square(s).sum((*range(s.ndim - 3), s.ndim - 1))


def centred(half: np.ndarray, width: int) -> np.ndarray:
    """Return a half spectrum ``[H, width // 2 + 1]`` as all of it, zero in the middle.

    ``[H, width]``: a real map has the same at opposite frequencies.
    """
    height = len(half)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    mirrored = columns > width // 2
    full = half[
        np.where(mirrored, -rows % height, rows), np.where(mirrored, width - columns, columns)
    ]
    return np.fft.fftshift(full)


def thresholds(model: nnx.Module) -> dict[str, Threshold]:
    """Return scale and bias of each SpectrumReLU by the name of its block.

    ``[*grid]`` of the block's transform; of a Fourier transform zero frequency is in the middle.
    """
    found = {}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, SpectralResidual) and module.spectrum_relu is not None:
            learned = module.spectrum_relu.scale[...], module.spectrum_relu.bias[...]
            scale, bias = (np.asarray(a, np.float32) for a in learned)
            if isinstance(module.pair, RealFFT) and scale.ndim == 2:
                scale, bias = (centred(a, module.spectrum_size[-1]) for a in (scale, bias))
            found[".".join(map(str, path))] = Threshold(scale, bias)
    return found


def orthogonal_bases(model: nnx.Module) -> dict[str, dict[str, np.ndarray]]:
    """Return the learned orthogonal matrices of each block, by block and axis, ``[n, n]``.

    The axes are "frames", "rows" and "columns". A row of each matrix is a basis vector.
    """
    found = {}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, HouseholderPair | RetractedPair):
            *left, last = (np.asarray(m, np.float32) for m in module().matrices)
            matrices = [*left, last.T]  # the last axis is multiplied from the right
            axes = ("frames", "rows", "columns")[-len(matrices) :]
            found[".".join(map(str, path[:-1]))] = dict(zip(axes, matrices, strict=True))
    return found


def check_spectral(model: nnx.Module) -> None:
    """Raise ValueError unless a model has a layer of `FILTERS`."""
    if not any(isinstance(module, FILTERS) for _, module in nnx.iter_modules(model)):
        raise ValueError(
            f"{type(model).__name__} has no layer in the domain of a transform; networks with one "
            "are those with FFCs and the blocks srl_fft, srl_lo, srl_dct, gfnet, afno, fno"
        )
