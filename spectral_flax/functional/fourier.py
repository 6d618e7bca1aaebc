# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms between feature maps and packed real half spectra.

A packed spectrum is a real array: channels are ordered (group, real/imaginary, channel in the
group), so that any layer and any dtype applies to it and a grouped convolution sees whole complex
channels. The inverse means what NumPy's does for every spectrum: Hermitian symmetry is assumed on
the last axis only, so its zero and Nyquist frequencies enter by their Hermitian part.
"""

import dataclasses
import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import as_floating, wide
from spectral_flax.functional.padding import repeat_last
from spectral_flax.kernels.batch_parallel import batch_parallel
from spectral_flax.kernels.platforms import ByPlatform

Norm = Literal["ortho", "backward", "forward"]
Implementation = Literal["auto", "fft", "matmul"]

# Sides up to which the matrices are the faster on the CPU, forward and with gradients. The table
# this comes from is in docs/performance.md; other platforms were not measured.
MATMUL_UP_TO = 16


@dataclasses.dataclass(frozen=True)
class RealFFT:
    """The Fourier transform of real maps to packed half spectra, and its inverse.

    ``[..., H, W, C] <-> [..., H, W//2 + 1, 2C]`` for ``rank=2``, with T before H for ``rank=3``;
    the axes before are the batch. Results have the dtype of the input.

    Args:
      rank: how many axes before the channels are transformed: 2 or 3.
      groups: channels of the spectrum are ordered (groups, real/imaginary, C//groups).
      norm: "ortho" (1/sqrt(HW) both ways), "backward" (1/(HW) in the inverse) or "forward".
      implementation: "fft", "matmul" (products with cosine and sine matrices: real arithmetic,
        standard operators only) or "auto": the one that was measured to be faster at that size on
        the platform that the program is lowered for (`choose_implementation`).
      dtype: computation dtype of the matmul form. None: float32, or float64 for float64 input;
        the FFT has no other.
      precision: of the matrix products; None is "highest", which an FFT's accuracy needs.

    Raises:
      TypeError: an input is not a real floating array.
      ValueError: an axis is missing or empty, or an option is unknown.

    Chi, Jiang and Mu, "Fast Fourier Convolution", NeurIPS 2020, Fourier unit.
    """

    rank: int = 2
    groups: int = 1
    norm: Norm = "ortho"
    implementation: Implementation = "auto"
    dtype: DTypeLike | None = None
    precision: lax.PrecisionLike = None
    multiplier = 2

    def __post_init__(self):
        check_rank(self.rank)
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm={self.norm!r}; expected 'ortho', 'backward' or 'forward'")
        if self.implementation not in get_args(Implementation):
            raise ValueError(
                f"implementation={self.implementation!r}; expected 'auto', 'fft' or 'matmul'"
            )

    def forward(self, x: jax.Array) -> jax.Array:
        """Return the half spectrum, ``[..., *sizes, C] -> [..., *grid, 2C]``."""
        x = as_floating(x=x)
        sizes = _spatial(x, self.rank, "x")
        self._check_groups("channels of x", x.shape[-1])
        return _apply(self, sizes, _ForwardFFT(self, sizes), _ForwardMatmul(self, sizes), x)

    def inverse(self, s: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        """Return the map, ``[..., *grid, 2C] -> [..., *sizes, C]``.

        Only the last of ``sizes``, the width, is read: the spectrum has the others.
        """
        s = as_floating(s=s)
        grid = _spatial(s, self.rank, "s")
        width = sizes[-1]
        if not isinstance(width, int | np.integer) or width < 1 or grid[-1] != width // 2 + 1:
            raise ValueError(
                f"s has {grid[-1]} frequencies along the width; expected width//2 + 1 for "
                f"width={width!r}"
            )
        self._check_groups("half the channels of s", s.shape[-1] / 2)
        sizes = (*grid[:-1], width)
        return _apply(self, sizes, _InverseFFT(self, sizes), _InverseMatmul(self, sizes), s)

    def _check_groups(self, what, channels):
        integer = isinstance(self.groups, int | np.integer)
        if not integer or self.groups < 1 or channels % self.groups:
            raise ValueError(f"{what}: {channels:g}, do not divide into groups={self.groups!r}")


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))  # traced once for all layers of one shape
def _apply(transform, sizes, fft, matmul, x):
    # There is no FFT of 16 bits.
    needs_matmul = transform.dtype is not None and np.dtype(transform.dtype) != wide(x.dtype)
    if transform.implementation == "fft" and needs_matmul:
        dtype = transform.dtype
        raise ValueError(f"dtype={dtype} needs implementation='matmul'; an FFT computes in float32")
    auto = transform.implementation == "auto"
    if transform.implementation == "matmul" or (auto and transform.dtype is not None):
        return matmul(x)
    if auto and choose_implementation(sizes, "cpu") == "matmul":
        fft = ByPlatform(fft, cpu=matmul)
    axis = 0 if x.ndim > transform.rank + 1 else None
    return batch_parallel(fft, x, batch=(axis,), out=axis)


def rfft2(
    x: jax.Array,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Half spectrum over H and W: ``[..., H, W, C] -> [..., H, W//2 + 1, 2C]``.

    Options and errors as in `RealFFT`.
    """
    return RealFFT(2, groups, norm, implementation, dtype, precision).forward(x)


def irfft2(
    s: jax.Array,
    width: int,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Inverse of `rfft2`: ``[..., H, width//2 + 1, 2C] -> [..., H, width, C]``."""
    transform = RealFFT(2, groups, norm, implementation, dtype, precision)
    return transform.inverse(s, (width,))


def rfft3(
    x: jax.Array,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Half spectrum over T, H and W: ``[..., T, H, W, C] -> [..., T, H, W//2 + 1, 2C]``.

    Options and errors as in `RealFFT`.
    """
    return RealFFT(3, groups, norm, implementation, dtype, precision).forward(x)


def irfft3(
    s: jax.Array,
    width: int,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Inverse of `rfft3`: ``[..., T, H, width//2 + 1, 2C] -> [..., T, H, width, C]``."""
    transform = RealFFT(3, groups, norm, implementation, dtype, precision)
    return transform.inverse(s, (width,))


def split_quarters(x: jax.Array) -> jax.Array:
    """Stack the four quarters of a map: ``[..., H, W, C] -> [..., ceil(H/2), ceil(W/2), 4C]``.

    Channels are ordered (top left, bottom left, top right, bottom right), as in the published
    local Fourier unit. A side of odd length is first extended by repeating its last row or
    column, so that all quarters have one size (the published code fails there).
    Chi, Jiang and Mu, NeurIPS 2020, local Fourier unit.
    """
    x = as_floating(x=x)
    height, width = _spatial(x, 2, "x")
    x = repeat_last(x, height + height % 2, axis=-3)
    x = repeat_last(x, width + width % 2, axis=-2)
    h, w = x.shape[-3] // 2, x.shape[-2] // 2
    quarters = [x[..., i : i + h, j : j + w, :] for j in (0, w) for i in (0, h)]
    return jnp.concatenate(quarters, axis=-1)


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
    x = jnp.concatenate([x, x], axis=-3)[..., :height, :, :]
    return jnp.concatenate([x, x], axis=-2)[..., :width, :]


def choose_implementation(sizes: tuple[int, ...], platform: str) -> Literal["fft", "matmul"]:
    """Return what "auto" is on a platform for a transform over ``sizes``: see `MATMUL_UP_TO`."""
    return "matmul" if platform == "cpu" and max(sizes) <= MATMUL_UP_TO else "fft"


def check_rank(rank: int) -> None:
    """Raise ValueError unless ``rank`` is 2 (H, W) or 3 (T, H, W)."""
    if rank not in (2, 3):
        raise ValueError(f"rank is {rank!r}; expected 2 (H, W) or 3 (T, H, W)")


def _spatial(x, rank, name) -> tuple[int, ...]:
    if x.ndim < rank + 1:
        axes = "T, H, W, C"[-3 * rank - 1 :]
        raise ValueError(f"{name} has shape {x.shape}; expected at least the axes [{axes}]")
    sizes = x.shape[-rank - 1 : -1]
    if 0 in sizes:
        raise ValueError(f"{name} has shape {x.shape}; expected no empty spatial axis")
    return sizes


@dataclasses.dataclass(frozen=True)
class _Half:
    """One direction and implementation of a transform at one size, hashable."""

    transform: RealFFT
    sizes: tuple[int, ...]


class _ForwardFFT(_Half):
    def __call__(self, x: jax.Array) -> jax.Array:
        groups = self.transform.groups
        channels = -len(self.sizes) - 1
        z = jnp.moveaxis(x, -1, channels).astype(wide(x.dtype))
        z = lax.fft(z, "rfft", self.sizes) * _forward_scale(self.transform.norm, self.sizes)
        z = jnp.moveaxis(z, channels, -1)
        z = z.reshape(*z.shape[:-1], groups, 1, z.shape[-1] // groups)
        s = jnp.concatenate([z.real, z.imag], axis=-2)
        return lax.collapse(s, s.ndim - 3).astype(x.dtype)


class _InverseFFT(_Half):
    def __call__(self, s: jax.Array) -> jax.Array:
        channels = -len(self.sizes) - 1
        r = _complex_channels(s, self.transform.groups).astype(wide(s.dtype))
        z = lax.collapse(lax.complex(r[..., 0, :], r[..., 1, :]), s.ndim - 1)
        z = jnp.moveaxis(z, -1, channels)
        x = lax.fft(z, "irfft", self.sizes) * _inverse_scale(self.transform.norm, self.sizes)
        return jnp.moveaxis(x, channels, -1).astype(s.dtype)


class _Matmul(_Half):
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


class _ForwardMatmul(_Matmul):
    def __call__(self, x: jax.Array) -> jax.Array:
        groups = self.transform.groups
        scale = _forward_scale(self.transform.norm, self.sizes)
        last, others = _forward_tables(self.sizes, scale)
        y = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        y = self._product("...wgc,rwk->...kgrc", y, last, x.dtype)
        y = self._other_axes(y, others, x.dtype)
        return lax.collapse(y, y.ndim - 3).astype(x.dtype)


class _InverseMatmul(_Matmul):
    def __call__(self, s: jax.Array) -> jax.Array:
        scale = _inverse_scale(self.transform.norm, self.sizes)
        last, others = _inverse_tables(self.sizes, scale / math.prod(self.sizes))
        y = _complex_channels(s, self.transform.groups)
        y = self._other_axes(y, others, s.dtype)
        y = self._product("...kgrc,rkw->...wgc", y, last, s.dtype)
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
