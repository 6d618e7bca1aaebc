# SPDX-License-Identifier: Apache-2.0
"""The computations of a real Fourier transform: by FFT or by products, on whole or split maps.

Each is a function of arrays whose options make it hashable. ``across(names)`` returns what it is
where mesh axes split the rows of maps and the columns of spectra: see `kernels.pencils`.
``by_axes(x, between)`` computes it in two steps, over the width and over the other axes, and
applies a function to the array between them, whose axes of rows, columns and channels are ``axes``.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_flax.arrays import wide
from spectral_flax.kernels.pencils import Names, exchange

if TYPE_CHECKING:
    from spectral_flax.functional.fourier import RealFFT

_OfArray = Callable[[jax.Array], jax.Array]


def spatial_sizes(x: jax.Array, rank: int, name: str) -> tuple[int, ...]:
    """Return the sizes of the ``rank`` axes before the channels; ValueError if one is not there."""
    if x.ndim < rank + 1:
        axes = "T, H, W, C"[-3 * rank - 1 :]
        raise ValueError(f"{name} has shape {x.shape}; expected at least the axes [{axes}]")
    sizes = x.shape[-rank - 1 : -1]
    if 0 in sizes:
        raise ValueError(f"{name} has shape {x.shape}; expected no empty spatial axis")
    return sizes


@dataclasses.dataclass(frozen=True)
class _Half(abc.ABC):
    """One direction and implementation of a transform at one size, hashable."""

    transform: "RealFFT"
    sizes: tuple[int, ...]

    @property
    @abc.abstractmethod
    def axes(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the array between the two steps."""

    @property
    def _columns(self):
        """How many frequencies spectra have along the width."""
        return self.transform.columns or self.sizes[-1] // 2 + 1

    def to_columns(self, z: jax.Array, names: Names, height: int) -> jax.Array:
        """Return the device's columns of all rows, of its rows."""
        rows, columns, _ = self.axes
        return exchange(z, names, split=columns, join=rows, size=height)

    def to_rows(self, z: jax.Array, names: Names) -> jax.Array:
        """Return the device's rows of all columns, of its columns."""
        rows, columns, _ = self.axes
        return exchange(z, names, split=rows, join=columns, size=self._columns)


class _FFT(_Half):
    @property
    def axes(self) -> tuple[int, int, int]:
        return -2, -1, self._channels

    @property
    def _channels(self):
        """Where an FFT over the last axes has them."""
        return -len(self.sizes) - 1

    def _other_axes(self, z, kind):
        """Transform all axes but the last."""
        z = lax.fft(jnp.moveaxis(z, -1, self._channels), kind, self.sizes[:-1])
        return jnp.moveaxis(z, self._channels, -1)


class ForwardFFT(_FFT):
    """Half spectra of maps, by FFT."""

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.transform.columns is not None:
            return self.by_axes(x, lambda z: z)
        z = jnp.moveaxis(x, -1, self._channels).astype(wide(x.dtype))
        return self._packed(lax.fft(z, "rfft", self.sizes), x.dtype)

    def across(self, names: Names) -> _OfArray:
        columns = functools.partial(self.to_columns, names=names, height=self.sizes[-2])
        return functools.partial(self.by_axes, between=columns)

    def by_axes(self, x: jax.Array, between: _OfArray) -> jax.Array:
        z = jnp.moveaxis(x, -1, self._channels).astype(wide(x.dtype))
        z = lax.fft(z, "rfft", self.sizes[-1:])[..., : self._columns]
        return self._packed(self._other_axes(between(z), "fft"), x.dtype)

    def _packed(self, z, dtype):
        z = jnp.moveaxis(z * _forward_scale(self.transform.norm, self.sizes), self._channels, -1)
        groups = self.transform.groups
        z = z.reshape(*z.shape[:-1], groups, 1, z.shape[-1] // groups)
        s = jnp.concatenate([z.real, z.imag], axis=-2)
        return lax.collapse(s, s.ndim - 3).astype(dtype)


class InverseFFT(_FFT):
    """Maps of half spectra, by FFT."""

    def __call__(self, s: jax.Array) -> jax.Array:
        if self.transform.columns is not None:
            return self.by_axes(s, lambda z: z)
        return self._map(lax.fft(self._unpacked(s), "irfft", self.sizes), s.dtype)

    def across(self, names: Names) -> _OfArray:
        return functools.partial(self.by_axes, between=functools.partial(self.to_rows, names=names))

    def by_axes(self, s: jax.Array, between: _OfArray) -> jax.Array:
        z = between(self._other_axes(self._unpacked(s), "ifft"))
        if missing := self.sizes[-1] // 2 + 1 - self._columns:
            z = jnp.pad(z, [(0, 0)] * (z.ndim - 1) + [(0, missing)])
        return self._map(lax.fft(z, "irfft", self.sizes[-1:]), s.dtype)

    def _unpacked(self, s):
        r = _complex_channels(s, self.transform.groups).astype(wide(s.dtype))
        z = lax.collapse(lax.complex(r[..., 0, :], r[..., 1, :]), s.ndim - 1)
        return jnp.moveaxis(z, -1, self._channels)

    def _map(self, x, dtype):
        x = x * _inverse_scale(self.transform.norm, self.sizes)
        return jnp.moveaxis(x, self._channels, -1).astype(dtype)


class _Matmul(_Half):
    @property
    def axes(self) -> tuple[int, int, int]:
        return -5, -4, -1

    def _product(self, subscripts, x, table, input_dtype):
        """Contract with a table in the computation dtype, accumulating in float32 or wider."""
        dtype = np.dtype(self.transform.dtype or wide(input_dtype))
        y = jnp.einsum(
            subscripts,
            x.astype(dtype),
            jnp.asarray(table, dtype),
            precision=self.transform.precision or "highest",
            preferred_element_type=wide(dtype),
        )
        return y.astype(dtype)

    def _other_axes(self, y, tables, input_dtype):
        letters = "thw"[-len(tables) - 1 : -1]
        for letter, table in zip(letters, tables, strict=True):
            tail = letters[letters.index(letter) + 1 :]
            spec = f"...{letter}{tail}kgrc,r{letter}su->...u{tail}kgsc"
            y = self._product(spec, y, table, input_dtype)
        return y


class ForwardMatmul(_Matmul):
    """Half spectra of maps, by products with cosine and sine matrices."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.by_axes(x, lambda y: y)

    def across(self, names: Names) -> _OfArray:
        columns = functools.partial(self.to_columns, names=names, height=self.sizes[-2])
        return functools.partial(self.by_axes, between=columns)

    def by_axes(self, x: jax.Array, between: _OfArray) -> jax.Array:
        groups = self.transform.groups
        scale = _forward_scale(self.transform.norm, self.sizes)
        last, others = _forward_tables(self.sizes, scale)
        y = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        last = last[..., : self._columns]
        y = between(self._product("...wgc,rwk->...kgrc", y, last, x.dtype))
        y = self._other_axes(y, others, x.dtype)
        return lax.collapse(y, y.ndim - 3).astype(x.dtype)


class InverseMatmul(_Matmul):
    """Maps of half spectra, by products with cosine and sine matrices."""

    def __call__(self, s: jax.Array) -> jax.Array:
        return self.by_axes(s, lambda y: y)

    def across(self, names: Names) -> _OfArray:
        return functools.partial(self.by_axes, between=functools.partial(self.to_rows, names=names))

    def by_axes(self, s: jax.Array, between: _OfArray) -> jax.Array:
        scale = _inverse_scale(self.transform.norm, self.sizes)
        last, others = _inverse_tables(self.sizes, scale / math.prod(self.sizes))
        y = _complex_channels(s, self.transform.groups)
        y = between(self._other_axes(y, others, s.dtype))
        y = self._product("...kgrc,rkw->...wgc", y, last[:, : self._columns], s.dtype)
        return lax.collapse(y, y.ndim - 2).astype(s.dtype)


def _forward_scale(norm, sizes):
    count = math.prod(sizes)
    return {"ortho": 1 / math.sqrt(count), "backward": 1, "forward": 1 / count}[norm]


def _inverse_scale(norm, sizes):
    count = math.prod(sizes)  # lax divides by it
    return {"ortho": math.sqrt(count), "backward": 1, "forward": count}[norm]


@functools.lru_cache(maxsize=256)
def _angles(n: int, frequencies: int) -> np.ndarray:
    # Whole turns are taken off in integers, where they are exact.
    return 2 * np.pi / n * (np.outer(np.arange(n), np.arange(frequencies)) % n)


def _complex_table(n: int, sign: int) -> np.ndarray:
    """Table ``[re/im in, n, re/im out, n]`` of the multiplication by exp(±i angle)."""
    cos, sin = np.cos(_angles(n, n)), sign * np.sin(_angles(n, n))
    return np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)])


@functools.lru_cache(maxsize=64)
def _forward_tables(sizes: tuple[int, ...], scale: float):
    angles = _angles(sizes[-1], sizes[-1] // 2 + 1)
    last = scale * np.stack([np.cos(angles), -np.sin(angles)])
    return last, [_complex_table(n, -1) for n in sizes[:-1]]


@functools.lru_cache(maxsize=64)
def _inverse_tables(sizes: tuple[int, ...], scale: float):
    width = sizes[-1]
    angles = _angles(width, width // 2 + 1).T
    twice = np.where((np.arange(width // 2 + 1) * 2) % width == 0, 1.0, 2.0)[:, None] * scale
    return twice * np.stack([np.cos(angles), -np.sin(angles)]), [
        _complex_table(n, 1) for n in sizes[:-1]
    ]


def _complex_channels(s, groups):
    return s.reshape(*s.shape[:-1], groups, 2, s.shape[-1] // (2 * groups))
