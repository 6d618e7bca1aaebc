# SPDX-License-Identifier: Apache-2.0
"""Transform pairs: a linear transform of feature maps and its inverse, as one value.

A pair is any object with ``forward(x)``, ``inverse(s, sizes)`` and ``multiplier``; those here and
`fourier.RealFFT` are frozen dataclasses. Each transforms the last ``rank`` axes before the
channels: ``rank=2`` transforms a video frame by frame. A user-defined pair is such a class, or a
`TransformPair` of two functions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_flax.arrays import as_floating, wide
from spectral_flax.functional.fourier import check_rank
from spectral_flax.kernels.pencils import by_columns, by_rows

_LETTERS = "thw"


class Pair(Protocol):
    """Interface of a transform that a spectral block uses."""

    multiplier: int
    """Channels of the spectrum for each channel of the map."""

    def forward(self, x: jax.Array) -> jax.Array:
        """Transform ``[..., *sizes, C] -> [..., *grid, multiplier * C]``."""

    def inverse(self, s: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        """Transform back: ``[..., *grid, multiplier * C] -> [..., *sizes, C]``."""


@dataclasses.dataclass(frozen=True)
class TransformPair:
    """A pair made of two functions: ``forward(x)`` and ``inverse(s, sizes)``."""

    forward: Callable[[jax.Array], jax.Array]
    inverse: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    multiplier: int = 1


@dataclasses.dataclass(frozen=True)
class Identity:
    """The pair that does nothing."""

    multiplier = 1

    def forward(self, x: jax.Array) -> jax.Array:
        return x

    def inverse(self, s: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        return s


@dataclasses.dataclass(frozen=True, eq=False)
class Orthogonal:
    """Multiplication by an orthogonal matrix per axis: ``P X Q`` and ``P^T S Q^T`` per channel.

    ``matrices`` are P ``[H, H]`` and Q ``[W, W]`` (before them, for video, one ``[T, T]`` that acts
    from the left). Chi et al., spectral residual learning, linear orthogonal blocks.
    """

    matrices: tuple[jax.Array, ...]
    precision: lax.PrecisionLike = None
    multiplier = 1

    def forward(self, x: jax.Array) -> jax.Array:
        *left, q = self.matrices
        return _multiply(x, (*left, q.T), self.precision)

    def inverse(self, s: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        *left, q = self.matrices
        return _multiply_back(s, (*(p.T for p in left), q), self.precision)


@dataclasses.dataclass(frozen=True)
class _FixedMatrices:
    """Multiplication of each axis by the orthogonal matrix of its length."""

    rank: int = 2
    precision: lax.PrecisionLike = None
    multiplier = 1

    def __post_init__(self) -> None:
        check_rank(self.rank)

    def forward(self, x: jax.Array) -> jax.Array:
        matrices = [self._matrix(n) for n in _sizes(x, self.rank)]
        return _multiply(x, matrices, self.precision)

    def inverse(self, s: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        matrices = [self._matrix(n).T for n in _sizes(s, self.rank)]
        return _multiply_back(s, matrices, self.precision)


class Cosine(_FixedMatrices):
    """The orthonormal cosine transform: DCT-II forward, DCT-III back, for any size."""

    def _matrix(self, n):
        return cosine_matrix(n)


class Hadamard(_FixedMatrices):
    """The orthonormal Walsh-Hadamard transform, its own inverse, for powers of two."""

    def _matrix(self, n):
        return hadamard_matrix(n)


@functools.lru_cache(maxsize=256)
def cosine_matrix(n: int) -> np.ndarray:
    """Matrix of the orthonormal DCT-II, ``[n, n]``, in float64; its transpose is the DCT-III."""
    # Whole turns are taken off in integers, where they are exact.
    angle = np.pi / (2 * n) * (np.outer(np.arange(n), 2 * np.arange(n) + 1) % (4 * n))
    matrix = np.sqrt(2 / n) * np.cos(angle)
    matrix[0] = np.sqrt(1 / n)
    return matrix


@functools.lru_cache(maxsize=64)
def hadamard_matrix(n: int) -> np.ndarray:
    """Orthonormal Hadamard matrix in Sylvester's order, ``[n, n]``, in float64.

    Raises:
      ValueError: ``n`` is not a power of two.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"a Hadamard transform of length {n}; expected a power of two")
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]]) / np.sqrt(2)
    return matrix


def _sizes(x, rank):
    x = as_floating(x=x)
    if x.ndim <= rank or 0 in x.shape[-rank - 1 : -1]:
        expected = f"[..., {'T, ' * (rank - 2)}H, W, C], no spatial axis empty"
        raise ValueError(f"x has shape {x.shape}; expected {expected}")
    return x.shape[-rank - 1 : -1]


def _multiply(x, matrices, precision):
    """Multiply the last axes before the channels by a matrix each, from the left.

    In the dtype of ``x``, accumulated in float32 at least; ``precision`` None is the highest.
    """
    x = _fitting(x, matrices)
    x = by_columns(_along("w", x, matrices[-1:], precision))
    return _along(_LETTERS[-len(matrices) : -1], x, matrices[:-1], precision)


def _multiply_back(x, matrices, precision):
    """Multiply in the other order, the width last."""
    x = _fitting(x, matrices)
    x = by_rows(_along(_LETTERS[-len(matrices) : -1], x, matrices[:-1], precision))
    return _along("w", x, matrices[-1:], precision)


def _fitting(x, matrices):
    x = as_floating(x=x)
    sizes = _sizes(x, len(matrices))
    expected = tuple(m.shape[1] for m in matrices)
    if sizes != expected:
        raise ValueError(
            f"the map is {' x '.join(map(str, sizes))}; this transform was built for "
            f"{' x '.join(map(str, expected))}"
        )
    return x


def _along(letters, x, matrices, precision):
    dtype = x.dtype
    for letter, matrix in zip(letters, matrices, strict=True):
        axes = _LETTERS[_LETTERS.index(letter) :]
        x = jnp.einsum(
            f"o{letter},...{axes}c->...{axes.replace(letter, 'o')}c",
            jnp.asarray(matrix, dtype),
            x,
            precision=lax.Precision.HIGHEST if precision is None else precision,
            preferred_element_type=wide(dtype),
        ).astype(dtype)
    return x
