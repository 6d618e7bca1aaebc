# SPDX-License-Identifier: Apache-2.0
"""The quarters of a map, as the local Fourier unit sees them, and the Fourier transform of them.

Chi, Jiang and Mu, "Fast Fourier Convolution", NeurIPS 2020, local Fourier unit.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from spectral_flax.arrays import as_floating
from spectral_flax.functional.fourier_forms import (
    ForwardFFT,
    ForwardMatmul,
    InverseFFT,
    InverseMatmul,
    spatial_sizes,
)
from spectral_flax.functional.padding import repeat_last
from spectral_flax.kernels.pencils import Names, by_columns, by_rows


def split_quarters(x: jax.Array) -> jax.Array:
    """Stack the four quarters of a map: ``[..., H, W, C] -> [..., ceil(H/2), ceil(W/2), 4C]``.

    Channels are ordered (top left, bottom left, top right, bottom right), as in the published
    local Fourier unit. A side of odd length is first extended by repeating its last row or
    column, so that all quarters have one size (the published code fails there).
    Chi, Jiang and Mu, NeurIPS 2020, local Fourier unit.
    """
    x = as_floating(x=x)
    spatial_sizes(x, 2, "x")
    # Each cut where devices have the whole side: XLA would send the rows from device to device.
    return by_rows(_cut_rows(by_columns(_cut_columns(x)), -3, -1))


def tile_quarters(x: jax.Array, height: int, width: int) -> jax.Array:
    """Repeat a map: ``[..., ceil(height/2), ceil(width/2), C] -> [..., height, width, C]``.

    The result is the map repeated 2 x 2 times, without the last row or column where a side is odd:
    the positions that `split_quarters` adds.
    """
    x = as_floating(x=x)
    if x.shape[-3:-1] != (-(-height // 2), -(-width // 2)):
        raise ValueError(
            f"x is {x.shape[-3]} x {x.shape[-2]}; expected half of {height} x {width}, rounded up"
        )
    return _twice(_twice(x, -3, height), -2, width)


@dataclasses.dataclass(frozen=True)
class ForwardQuarters:
    """Half spectra of the quarters of maps of a height, by a transform of maps of half a side.

    The columns are cut before the width is transformed, the rows between that and the other axes:
    where devices share rows, each has whole columns then.
    """

    form: ForwardFFT | ForwardMatmul
    height: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.form.sizes

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.form(_cut_rows(_cut_columns(x), -3, -1))

    def across(self, names: Names) -> Callable[[jax.Array], jax.Array]:
        transform = self.form.transform
        # Until rows are cut, channels may not divide into groups.
        ungrouped = dataclasses.replace(transform, groups=1)
        form = dataclasses.replace(self.form, transform=ungrouped)

        def columns(z):
            rows, _, channels = form.axes
            return _cut_rows(form.to_columns(z, names, self.height), rows, channels)

        def local(x):
            s = form.by_axes(_cut_columns(x), columns)
            groups = transform.groups  # which come before real and imaginary parts
            packed = s.reshape(*s.shape[:-1], 2, groups, s.shape[-1] // (2 * groups))
            return packed.swapaxes(-3, -2).reshape(s.shape)

        return local


@dataclasses.dataclass(frozen=True)
class InverseQuarters:
    """Maps of a height and width, repeated from half spectra of maps of half a side."""

    form: InverseFFT | InverseMatmul
    height: int
    width: int

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.form.sizes

    def __call__(self, s: jax.Array) -> jax.Array:
        return _twice(_twice(self.form(s), -3, self.height), -2, self.width)

    def across(self, names: Names) -> Callable[[jax.Array], jax.Array]:
        rows, _, _ = self.form.axes
        between = lambda z: self.form.to_rows(_twice(z, rows, self.height), names)
        return lambda s: _twice(self.form.by_axes(s, between), -2, self.width)


def _cut_columns(x):
    """Stack the left and the right half of a map, channels last, as channels."""
    width = x.shape[-2]
    x = repeat_last(x, width + width % 2, axis=-2)
    return jnp.concatenate(jnp.split(x, 2, -2), -1)


def _cut_rows(x, rows, channels):
    """Stack the upper and the lower half of each half of the channels as channels."""
    height = x.shape[rows]
    x = repeat_last(x, height + height % 2, axis=rows % x.ndim)
    quarters = [part for half in jnp.split(x, 2, channels) for part in jnp.split(half, 2, rows)]
    return jnp.concatenate(quarters, channels)


def _twice(x, axis, size):
    """Repeat an array along an axis, up to a size."""
    return jax.lax.slice_in_dim(jnp.concatenate([x, x], axis), 0, size, axis=axis)
