# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms between feature maps and packed real half spectra.

A packed spectrum is a real array: channels are ordered (group, real/imaginary, channel in the
group), so that any layer and any dtype applies to it and a grouped convolution sees whole complex
channels. The inverse means what NumPy's does for every spectrum: Hermitian symmetry is assumed on
the last axis only, so its zero and Nyquist frequencies enter by their Hermitian part.
"""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import as_floating, wide
from spectral_flax.functional.fourier_forms import (
    ForwardFFT,
    ForwardMatmul,
    InverseFFT,
    InverseMatmul,
    spatial_sizes,
)
from spectral_flax.functional.quarters import ForwardQuarters, InverseQuarters
from spectral_flax.kernels.batch_parallel import batch_parallel
from spectral_flax.kernels.pencils import Names
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
      columns: frequencies along the width that spectra have, from 0 on; None: all, W//2 + 1. Others
        are neither computed nor exchanged, and the inverse takes them to be zero.
      axis_name: inside ``shard_map``, the mesh axis that splits the rows H of maps, all devices
        having as many. The columns of spectra are split then: ``ceil((W//2 + 1) / devices)`` each,
        those that no frequency is left for being zeros. Under ``jit`` the sharding of the arrays
        says the same, and nothing is needed here. Inside ``shard_map`` None is a transform of the
        device's part alone.
      quarters: the spectrum is that of `split_quarters` of the map, and the inverse is repeated by
        `tile_quarters`: ``[..., H, W, C] -> [..., h, w//2 + 1, 8C]``, with h and w half of H and W.
        Where devices share rows, quarters cost no exchange of their own.

    Rows on a mesh axis, T and W whole: `kernels.pencils`, one all-to-all each way.

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
    axis_name: Names | None = None
    columns: int | None = None
    quarters: bool = False
    multiplier = 2

    def __post_init__(self) -> None:
        check_rank(self.rank)
        names = self.axis_name if isinstance(self.axis_name, tuple) else (self.axis_name,)
        if self.axis_name is not None and not (names and all(isinstance(n, str) for n in names)):
            raise ValueError(f"axis_name={self.axis_name!r}; expected a name, or a tuple of them")
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm={self.norm!r}; expected 'ortho', 'backward' or 'forward'")
        if self.implementation not in get_args(Implementation):
            raise ValueError(
                f"implementation={self.implementation!r}; expected 'auto', 'fft' or 'matmul'"
            )

    def forward(self, x: jax.Array) -> jax.Array:
        """Return the half spectrum, ``[..., *sizes, C] -> [..., *grid, 2C]``."""
        x = as_floating(x=x)
        *others, height, width = spatial_sizes(x, self.rank, "x")
        height *= self._devices()
        sizes = (*others, self._side(height), self._side(width))
        self._frequencies(sizes[-1])
        self._check_groups("channels of x", x.shape[-1] * (4 if self.quarters else 1))
        forms = [form(self, sizes) for form in (ForwardFFT, ForwardMatmul)]
        if self.quarters:
            forms = [ForwardQuarters(form, height) for form in forms]
        return _apply(self, (x.ndim - 3, x.ndim - 2), *forms, x)

    def inverse(self, s: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
        """Return the map, ``[..., *grid, 2C] -> [..., *sizes, C]``.

        Only the last of ``sizes``, the width, is read: the spectrum has the others. With
        ``quarters`` also the height, which is that of the whole map, inside ``shard_map`` too.
        """
        s = as_floating(s=s)
        grid = spatial_sizes(s, self.rank, "s")
        width, devices = sizes[-1], self._devices()
        integer = isinstance(width, int | np.integer)
        side = self._side(width) if integer else 0
        if side < 1 or grid[-1] != -(-self._frequencies(side) // devices):
            count = f"{'ceil(width/2)' if self.quarters else 'width'}//2 + 1"
            expected = count if self.columns is None else f"columns={self.columns}"
            over = f", over {devices} devices," if devices > 1 else ""
            raise ValueError(
                f"s has {grid[-1]} frequencies along the width; expected {expected}{over} for "
                f"width={width!r}"
            )
        self._check_groups("half the channels of s", s.shape[-1] / 2)
        forms = [form(self, (*grid[:-1], side)) for form in (InverseFFT, InverseMatmul)]
        if self.quarters:
            height = sizes[-2] if len(sizes) > 1 else None
            if not isinstance(height, int | np.integer) or self._side(height) != grid[-2]:
                rows = f"s has {grid[-2]} rows"
                raise ValueError(f"{rows}; expected half of those of sizes={sizes}, rounded up")
            forms = [InverseQuarters(form, *sizes[-2:]) for form in forms]
        return _apply(self, (s.ndim - 2, s.ndim - 3), *forms, s)

    def _side(self, size):
        """Return how long a side is that is transformed, of a map's side."""
        return -(-size // 2) if self.quarters else size

    def _frequencies(self, width):
        """Return how many frequencies spectra have along the width."""
        there = width // 2 + 1
        if self.columns is None:
            return there
        integer = isinstance(self.columns, int | np.integer)
        if not integer or not 1 <= self.columns <= there:
            raise ValueError(f"columns={self.columns!r}; expected 1 to {there} for width={width}")
        return self.columns

    def _devices(self):
        if self.axis_name is None:
            return 1
        try:
            return lax.axis_size(self.axis_name)
        except NameError:
            expected = "the name of a mesh axis, inside shard_map over it"
            raise ValueError(f"axis_name={self.axis_name!r}; expected {expected}") from None

    def _check_groups(self, what, channels):
        integer = isinstance(self.groups, int | np.integer)
        if not integer or self.groups < 1 or channels % self.groups:
            raise ValueError(f"{what}: {channels:g}, do not divide into groups={self.groups!r}")


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))  # traced once for all layers of one shape
def _apply(transform, split, fft, matmul, x):
    # There is no FFT of 16 bits.
    needs_matmul = transform.dtype is not None and np.dtype(transform.dtype) != wide(x.dtype)
    if transform.implementation == "fft" and needs_matmul:
        dtype = transform.dtype
        raise ValueError(f"dtype={dtype} needs implementation='matmul'; an FFT computes in float32")
    auto, chosen = transform.implementation == "auto", fft
    if transform.implementation == "matmul" or (auto and transform.dtype is not None):
        chosen = matmul
    elif auto and choose_implementation(fft.sizes, "cpu") == "matmul":
        chosen = ByPlatform(fft, cpu=matmul)
    if transform.axis_name is not None:
        return chosen.across(transform.axis_name)(x)
    axis = 0 if x.ndim > transform.rank + 1 else None
    there, back = split
    return batch_parallel(chosen, x, batch=(axis,), out=axis, split=(there,), split_out=back)


def rfft2(
    x: jax.Array,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    axis_name: Names | None = None,
) -> jax.Array:
    """Half spectrum over H and W: ``[..., H, W, C] -> [..., H, W//2 + 1, 2C]``.

    Options and errors as in `RealFFT`.
    """
    return RealFFT(2, groups, norm, implementation, dtype, precision, axis_name).forward(x)


def irfft2(
    s: jax.Array,
    width: int,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    axis_name: Names | None = None,
) -> jax.Array:
    """Inverse of `rfft2`: ``[..., H, width//2 + 1, 2C] -> [..., H, width, C]``."""
    transform = RealFFT(2, groups, norm, implementation, dtype, precision, axis_name)
    return transform.inverse(s, (width,))


def rfft3(
    x: jax.Array,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    axis_name: Names | None = None,
) -> jax.Array:
    """Half spectrum over T, H and W: ``[..., T, H, W, C] -> [..., T, H, W//2 + 1, 2C]``.

    Options and errors as in `RealFFT`.
    """
    return RealFFT(3, groups, norm, implementation, dtype, precision, axis_name).forward(x)


def irfft3(
    s: jax.Array,
    width: int,
    groups: int = 1,
    *,
    norm: Norm = "ortho",
    implementation: Implementation = "auto",
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    axis_name: Names | None = None,
) -> jax.Array:
    """Inverse of `rfft3`: ``[..., T, H, width//2 + 1, 2C] -> [..., T, H, width, C]``."""
    transform = RealFFT(3, groups, norm, implementation, dtype, precision, axis_name)
    return transform.inverse(s, (width,))


def choose_implementation(sizes: tuple[int, ...], platform: str) -> Literal["fft", "matmul"]:
    """Return what "auto" is on a platform for a transform over ``sizes``: see `MATMUL_UP_TO`."""
    return "matmul" if platform == "cpu" and max(sizes) <= MATMUL_UP_TO else "fft"


def check_rank(rank: int) -> None:
    """Raise ValueError unless ``rank`` is 2 (H, W) or 3 (T, H, W)."""
    if rank not in (2, 3):
        raise ValueError(f"rank is {rank!r}; expected 2 (H, W) or 3 (T, H, W)")
