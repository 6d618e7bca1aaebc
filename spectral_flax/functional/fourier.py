# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms between feature maps and packed real half spectra.

A packed spectrum is a real array: channels are ordered (group, real/imaginary, channel in the
group), so that any layer and any dtype applies to it and a grouped convolution sees whole complex
channels. The inverse means what NumPy's does for every spectrum: Hermitian symmetry is assumed on
the last axis only, so its zero and Nyquist frequencies enter by their Hermitian part.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from typing import Literal

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

_meaning_of_auto = contextvars.ContextVar("meaning_of_auto", default=None)


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

    Args:
      x: real feature map with channels last; a leading axis is the batch.
      groups: channels of the result are ordered (groups, real/imaginary, C//groups).
      norm: "ortho" (1/sqrt(HW) both ways), "backward" (1/(HW) in the inverse) or "forward".
      implementation: "fft", "matmul" (products with cosine and sine matrices: real arithmetic,
        standard operators only) or "auto": what was measured to be faster at that size on the
        platform that the program is lowered for (`choose_implementation`).
      dtype: computation dtype of the matmul form. None: float32, or float64 for float64 input;
        the FFT knows no other. The result has the dtype of ``x`` in any case.
      precision: of the matrix products; None is "highest", which an FFT's accuracy needs.

    Raises:
      TypeError: ``x`` is not a real floating array.
      ValueError: an axis is missing or empty, or an option is unknown.

    Chi, Jiang and Mu, "Fast Fourier Convolution", NeurIPS 2020, Fourier unit.
    """
    return _forward(x, 2, groups, norm, implementation, dtype, precision)


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
    return _inverse(s, 2, width, groups, norm, implementation, dtype, precision)


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

    Arguments and errors as in `rfft2`.
    """
    return _forward(x, 3, groups, norm, implementation, dtype, precision)


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
    return _inverse(s, 3, width, groups, norm, implementation, dtype, precision)


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

    It stands 2 x 2 times in the result, less the last row or column where a side is odd: the
    positions that `split_quarters` added.
    """
    x = as_floating(x=x)
    if x.shape[-3:-1] != (-(-height // 2), -(-width // 2)):
        raise ValueError(
            f"x is {x.shape[-3]} x {x.shape[-2]}; expected half of {height} x {width}, rounded up"
        )
    x = jnp.concatenate([x, x], axis=-3)[..., :height, :, :]
    return jnp.concatenate([x, x], axis=-2)[..., :width, :]


def choose_implementation(sizes: tuple[int, ...], platform: str) -> Literal["fft", "matmul"]:
    """Return what "auto" means on a platform for a transform over ``sizes``: see `MATMUL_UP_TO`."""
    return "matmul" if platform == "cpu" and max(sizes) <= MATMUL_UP_TO else "fft"


@contextlib.contextmanager
def auto_is(implementation: Literal["fft", "matmul"]):
    """Let "auto" mean one implementation at all sizes, in what is traced within the context."""
    token = _meaning_of_auto.set(implementation)
    try:
        yield
    finally:
        _meaning_of_auto.reset(token)


def _forward(x, rank, groups, norm, implementation, dtype, precision):
    x = as_floating(x=x)
    sizes = _spatial(x, rank, "x")
    _check_groups("channels of x", x.shape[-1], groups)
    scale = {
        "ortho": 1 / math.sqrt(math.prod(sizes)),
        "backward": 1,
        "forward": 1 / math.prod(sizes),
    }
    _check(x.dtype, norm, implementation, dtype)
    fft = _ForwardFFT(rank, groups, scale[norm])
    compute = np.dtype(dtype or wide(x.dtype))
    matmul = _ForwardMatmul(sizes, groups, scale[norm], compute, precision or "highest")
    return _transform(x, sizes, implementation, dtype, fft, matmul)


def _inverse(s, rank, width, groups, norm, implementation, dtype, precision):
    s = as_floating(s=s)
    sizes = _spatial(s, rank, "s")
    if not isinstance(width, int | np.integer) or width < 1 or s.shape[-2] != width // 2 + 1:
        raise ValueError(
            f"s has {s.shape[-2]} frequencies along the width; expected width//2 + 1 for "
            f"width={width!r}"
        )
    sizes = (*sizes[:-1], width)
    _check_groups("half the channels of s", s.shape[-1] / 2, groups)
    count = math.prod(sizes)  # lax divides by it
    scale = {"ortho": math.sqrt(count), "backward": 1, "forward": count}
    _check(s.dtype, norm, implementation, dtype)
    fft = _InverseFFT(rank, width, groups, scale[norm])
    compute = np.dtype(dtype or wide(s.dtype))
    matmul = _InverseMatmul(sizes, groups, scale[norm] / count, compute, precision or "highest")
    return _transform(s, sizes, implementation, dtype, fft, matmul)


def _transform(x, sizes, implementation, dtype, fft, matmul):
    if implementation == "auto":
        implementation = _meaning_of_auto.get() or ("auto" if dtype is None else "matmul")
    if implementation == "matmul":
        return matmul(x)
    if implementation == "auto" and choose_implementation(sizes, "cpu") == "matmul":
        fft = ByPlatform(fft, cpu=matmul)
    axis = 0 if x.ndim > len(sizes) + 1 else None
    return batch_parallel(fft, x, batch=(axis,), out=axis)


def _spatial(x, rank, name) -> tuple[int, ...]:
    if x.ndim < rank + 1:
        axes = "T, H, W, C"[-3 * rank - 1 :]
        raise ValueError(f"{name} has shape {x.shape}; expected at least the axes [{axes}]")
    sizes = x.shape[-rank - 1 : -1]
    if 0 in sizes:
        raise ValueError(f"{name} has shape {x.shape}; expected no empty spatial axis")
    return sizes


def _check_groups(what, channels, groups):
    if not isinstance(groups, int | np.integer) or groups < 1 or channels % groups:
        raise ValueError(f"{what}: {channels:g}, do not divide into groups={groups!r}")


def _check(input_dtype, norm, implementation, dtype):
    if norm not in ("ortho", "backward", "forward"):
        raise ValueError(f"norm={norm!r}; expected 'ortho', 'backward' or 'forward'")
    if implementation not in ("auto", "fft", "matmul"):
        raise ValueError(f"implementation={implementation!r}; expected 'auto', 'fft' or 'matmul'")
    # There is no FFT of 16 bits.
    if implementation == "fft" and dtype is not None and np.dtype(dtype) != wide(input_dtype):
        raise ValueError(f"dtype={dtype} needs implementation='matmul'; an FFT computes in float32")


@dataclasses.dataclass(frozen=True)
class _ForwardFFT:
    rank: int
    groups: int
    scale: float

    def __call__(self, x: jax.Array) -> jax.Array:
        sizes = x.shape[-self.rank - 1 : -1]
        z = jnp.moveaxis(x, -1, -self.rank - 1).astype(wide(x.dtype))
        z = lax.fft(z, "rfft", sizes) * self.scale
        z = jnp.moveaxis(z, -self.rank - 1, -1)
        z = z.reshape(*z.shape[:-1], self.groups, 1, z.shape[-1] // self.groups)
        s = jnp.concatenate([z.real, z.imag], axis=-2)
        return lax.collapse(s, s.ndim - 3).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class _InverseFFT:
    rank: int
    width: int
    groups: int
    scale: float

    def __call__(self, s: jax.Array) -> jax.Array:
        sizes = (*s.shape[-self.rank - 1 : -2], self.width)
        r = _complex_channels(s, self.groups).astype(wide(s.dtype))
        z = lax.collapse(lax.complex(r[..., 0, :], r[..., 1, :]), s.ndim - 1)
        z = jnp.moveaxis(z, -1, -self.rank - 1)
        x = lax.fft(z, "irfft", sizes) * self.scale
        return jnp.moveaxis(x, -self.rank - 1, -1).astype(s.dtype)


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


def _product(subscripts, x, table, dtype, precision):
    """Contract with a table in ``dtype``, accumulating in float32 or wider."""
    y = jnp.einsum(
        subscripts,
        x.astype(dtype),
        jnp.asarray(table, dtype),
        precision=precision,
        preferred_element_type=wide(dtype),
    )
    return y.astype(dtype)


@dataclasses.dataclass(frozen=True)
class _Matmul:
    sizes: tuple[int, ...]
    groups: int
    scale: float
    dtype: np.dtype
    precision: lax.PrecisionLike


class _ForwardMatmul(_Matmul):
    def __call__(self, x: jax.Array) -> jax.Array:
        last, others = _forward_tables(self.sizes, self.scale)
        y = x.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        y = _product("...wgc,rwk->...kgrc", y, last, self.dtype, self.precision)
        y = _other_axes(y, others, self.dtype, self.precision)
        return lax.collapse(y, y.ndim - 3).astype(x.dtype)


class _InverseMatmul(_Matmul):
    def __call__(self, s: jax.Array) -> jax.Array:
        last, others = _inverse_tables(self.sizes, self.scale)
        y = _complex_channels(s, self.groups)
        y = _other_axes(y, others, self.dtype, self.precision)
        y = _product("...kgrc,rkw->...wgc", y, last, self.dtype, self.precision)
        return lax.collapse(y, y.ndim - 2).astype(s.dtype)


def _complex_channels(s, groups):
    return s.reshape(*s.shape[:-1], groups, 2, s.shape[-1] // (2 * groups))


def _other_axes(y, tables, dtype, precision):
    letters = "thw"[-len(tables) - 1 : -1]
    for letter, table in zip(letters, tables, strict=True):
        tail = letters[letters.index(letter) + 1 :]
        spec = f"...{letter}{tail}kgrc,r{letter}su->...u{tail}kgsc"
        y = _product(spec, y, table, dtype, precision)
    return y
