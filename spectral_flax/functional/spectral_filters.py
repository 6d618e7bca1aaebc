# SPDX-License-Identifier: Apache-2.0
"""Filters of the Fourier spectrum: one number a frequency, a shared network, or a matrix each.

Three operators between a real Fourier transform over H and W (T, H and W) and its inverse. Spectra
are real arrays with real and imaginary parts side by side in the channels, as in
`functional.fourier`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from spectral_flax.arrays import as_floating
from spectral_flax.functional.fourier import Implementation, RealFFT


def global_filter(
    x: jax.Array, weight: jax.Array, *, implementation: Implementation = "auto"
) -> jax.Array:
    """Multiply each frequency of each channel by a number: ``[..., *sizes, C]`` to the same.

    ``weight`` is ``[*grid, 2C]``, the grid of the half spectrum: H and W//2 + 1, or T too. Its
    first C channels are real parts, the others imaginary ones. A circular convolution with a
    kernel as large as the map. The result has the dtype of ``x``.

    Raises:
      ValueError: the grids or channels differ.

    Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021, equation 4.
    """
    x, weight = as_floating(x=x), as_floating(weight=weight)
    rank = weight.ndim - 1
    sizes = x.shape[-rank - 1 : -1]
    expected = (*sizes[:-1], sizes[-1] // 2 + 1, 2 * x.shape[-1])
    if rank not in (2, 3) or x.ndim <= rank or weight.shape != expected:
        raise ValueError(
            f"weight has shape {weight.shape}; expected {expected}, the half spectrum of x of "
            f"shape {x.shape}"
        )
    transform = RealFFT(rank, implementation=implementation)
    real, imaginary = jnp.split(transform.forward(x), 2, -1)
    a, b = jnp.split(_aligned(weight.astype(x.dtype), x.ndim), 2, -1)
    y = jnp.concatenate([real * a - imaginary * b, real * b + imaginary * a], -1)
    return transform.inverse(y, sizes)


def fourier_mixer(
    x: jax.Array,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    *,
    threshold: float = 0.01,
    rank: int = 2,
    implementation: Implementation = "auto",
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Apply one complex two-layer network to every frequency: ``[..., *sizes, C]`` to the same.

    ``kernels`` are ``[2, blocks, C // blocks, hidden]`` and ``[2, blocks, hidden, C // blocks]``,
    ``biases`` ``[2, blocks, hidden]`` and ``[2, blocks, C // blocks]``: real and imaginary parts of
    block-diagonal matrices. ReLU between them, and a soft shrinkage by ``threshold`` after them,
    act on real and imaginary parts apart. The result has the dtype of ``x``.

    Raises:
      ValueError: the channels are not those of the kernels.

    Guibas et al., "Adaptive Fourier Neural Operators", ICLR 2022, section 4.
    """
    x = as_floating(x=x)
    blocks, width = kernels[0].shape[1:3]
    if x.shape[-1] != blocks * width:
        raise ValueError(f"x has {x.shape[-1]} channels; the kernels have {blocks} x {width}")
    transform = RealFFT(rank, implementation=implementation)
    s = transform.forward(x)
    s = s.reshape(*s.shape[:-1], 2, blocks, width)
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        kernel, bias = kernel.astype(s.dtype), bias.astype(s.dtype)
        s = jnp.einsum("...rbi,rbiso->...sbo", s, _complex_matrix(kernel), precision=precision)
        s = s + _aligned(bias, s.ndim)
        s = jax.nn.relu(s) if i == 0 else jnp.sign(s) * jax.nn.relu(jnp.abs(s) - threshold)
    s = s.reshape(*s.shape[:-3], 2 * blocks * width)
    return transform.inverse(s, x.shape[-rank - 1 : -1])


def spectral_convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    implementation: Implementation = "auto",
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Multiply each low frequency by a matrix: ``[..., *sizes, I] -> [..., *sizes, O]``.

    ``kernel`` is ``[*modes, 2, I, O]``: real and imaginary parts of a matrix for each frequency
    that is kept, those of the last axis from 0 on, those of the others from ``-(n // 2)`` on; all
    other frequencies become zero. They are those of the whole map, so that the operator means the
    same on finer grids. The result has the dtype of ``x``.

    Raises:
      ValueError: channels differ, or more frequencies are kept than the map has.

    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021,
    section 4.
    """
    x, kernel = as_floating(x=x), as_floating(kernel=kernel)
    rank = kernel.ndim - 3
    modes, sizes = kernel.shape[:rank], x.shape[-rank - 1 : -1]
    if rank not in (2, 3) or x.ndim <= rank or kernel.shape[-2] != x.shape[-1]:
        raise ValueError(f"kernel has shape {kernel.shape}; x has shape {x.shape}")
    there = (*sizes[:-1], sizes[-1] // 2 + 1)
    if any(mode > size for mode, size in zip(modes, there, strict=True)):
        raise ValueError(f"modes={modes}; a map of {sizes} has {there} frequencies")
    transform = RealFFT(rank, implementation=implementation, columns=modes[-1])
    s = _lowest(transform.forward(x), modes[:-1])
    s = s.reshape(*s.shape[:-1], 2, x.shape[-1])
    axes = "thw"[-rank:]
    rule = f"...{axes}ri,{axes}riso->...{axes}so"
    s = jnp.einsum(rule, s, _complex_matrix(kernel.astype(s.dtype), rank), precision=precision)
    s = s.reshape(*s.shape[:-2], 2 * kernel.shape[-1])
    return transform.inverse(_with_zeros(s, sizes[:-1]), sizes)


def _aligned(array: jax.Array, ndim: int) -> jax.Array:
    """Return an array with axes of length one in front, so that it has ``ndim``."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def _complex_matrix(kernel: jax.Array, axis: int = 0) -> jax.Array:
    """Return complex matrices, ``[..., 2, I, O]``, as real ones, ``[..., 2, I, 2, O]``.

    Real and imaginary parts stand along ``axis``, and in the result before the outputs too.
    """
    real, imaginary = (jnp.take(kernel, i, axis) for i in (0, 1))
    rows = [jnp.stack(pair, -2) for pair in ((real, imaginary), (-imaginary, real))]
    return jnp.stack(rows, axis)


def _lowest(s: jax.Array, modes: Sequence[int]) -> jax.Array:
    """Cut the lowest frequencies of all axes but the width out, the negative ones first."""
    for axis, mode in enumerate(modes, start=s.ndim - 2 - len(modes)):
        negative, size = mode // 2, s.shape[axis]
        parts = ((size - negative, size), (0, mode - negative))
        s = jnp.concatenate([lax.slice_in_dim(s, *part, axis=axis) for part in parts], axis)
    return s


def _with_zeros(s: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Put the lowest frequencies back among zeros: the inverse of `_lowest`."""
    for axis, size in enumerate(sizes, start=s.ndim - 2 - len(sizes)):
        mode = s.shape[axis]
        negative, positive = jnp.split(s, [mode // 2], axis)
        shape = [size - mode if i == axis else n for i, n in enumerate(s.shape)]
        s = jnp.concatenate([positive, jnp.zeros(shape, s.dtype), negative], axis)
    return s
