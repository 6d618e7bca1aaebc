# SPDX-License-Identifier: Apache-2.0
"""Spectral residual blocks: a pointwise convolution in the domain of a transform."""

import dataclasses
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import common, with_range
from spectral_flax.functional import pairs
from spectral_flax.functional.fourier import Implementation, Norm, RealFFT
from spectral_flax.functional.pooling import pool_frames
from spectral_flax.layers.activations import SpectrumReLU
from spectral_flax.layers.checks import as_map, check_multiple, check_positive
from spectral_flax.layers.conv import conv
from spectral_flax.layers.initializers import Initializer, identity_kernel, kaiming_normal
from spectral_flax.layers.learned_pairs import HouseholderPair, RetractedPair
from spectral_flax.layers.norm import BatchNorm
from spectral_flax.layers.numerics import Numerics, for_sums, types_of


class SpectralResidual(nnx.Module):
    """Residual block in a transformed domain: ``x + gate * inverse(phi(forward(x)))``.

    ``[N, H, W, C] -> [N, H, W, C]`` for ``rank=2``, ``[N, T, H, W, C]`` for ``rank=3``. phi is a
    grouped convolution (1x1, the identity at first), normalisation and ReLU.

    Args:
      features: channels C of the map.
      pair: the transform: a value with ``forward``, ``inverse`` and ``multiplier`` (see
        `functional.pairs`), or a module that returns one when called, such as `HouseholderPair`.
      rank: 2 for images, 3 for videos. A pair of rank 2 transforms a video frame by frame.
      groups: of the convolution. A `RealFFT` needs the same number.
      temporal_kernel: frames that the convolution of a video covers.
      temporal_pooling: "average" or "max" over neighbouring frames (as many as
        ``temporal_kernel``, of those that exist) after the ReLU; None for no pooling.
      bottleneck: channels that the spectrum is reduced to, by a convolution, normalisation and
        ReLU of their own, before the convolution that restores them (both with ``groups``).
      gate: whether the transformed part is multiplied by a learned scalar.
      gate_init: what it starts at; 0, as published, makes a new block the identity. Since phi
        normalises its result, what comes back through the un-normalised transform is sqrt(H W)
        times smaller than through the unitary one; a gate that starts there makes up for it.
      spectrum_size: map size (of the transformed axes) for a `SpectrumReLU` in the place of the
        ReLU; the block then takes maps of that size only. None for the ReLU.
      kernel_init: of the convolution; None is the identity, or a normal one after a bottleneck.

    Chi et al., spectral residual learning.
    """

    folds = (("reduce", "reduce_norm"), ("conv", "norm"))

    def __init__(
        self,
        features: int,
        *,
        pair: pairs.Pair | nnx.Module,
        rank: int = 2,
        groups: int = 1,
        temporal_kernel: int = 1,
        temporal_pooling: Literal["average", "max"] | None = None,
        bottleneck: int | None = None,
        gate: bool = True,
        gate_init: float = 0.0,
        spectrum_size: tuple[int, ...] | None = None,
        use_bias: bool = True,
        kernel_init: Initializer | None = None,
        **numerics: Unpack[Numerics],
    ):
        check_multiple("features", features, groups=groups)
        check_positive(temporal_kernel=temporal_kernel)
        if rank not in (2, 3):
            raise ValueError(f"rank={rank!r}; expected 2 (image) or 3 (video)")
        if temporal_kernel % 2 == 0 or (rank == 2 and temporal_kernel > 1):
            raise ValueError(
                f"temporal_kernel={temporal_kernel}; expected an odd number, and 1 for images"
            )
        if temporal_pooling not in (None, "average", "max") or (rank == 2 and temporal_pooling):
            raise ValueError(
                f"temporal_pooling={temporal_pooling!r}; expected 'average' or 'max' for videos, "
                "or None"
            )
        _check_pair(pair)
        if isinstance(pair, RealFFT) and pair.groups != groups:
            raise ValueError(f"pair.groups={pair.groups} differs from groups={groups}")
        if getattr(pair, "rank", 2) > rank:
            raise ValueError(f"pair.rank={pair.rank} is above rank={rank}")
        width = pair.multiplier * features
        sums = for_sums(numerics)  # over the map, which a spectrum holds
        options = types_of(sums)
        convolution = dict(rank=rank, feature_group_count=groups, use_bias=use_bias, **sums)
        window = (temporal_kernel, 1, 1)[-rank:]
        inner = width
        if bottleneck is not None:
            check_multiple("bottleneck", bottleneck, groups=groups)
            inner = pair.multiplier * bottleneck
        grid = spectrum_size and _spectrum_grid(pair, features, spectrum_size)
        self.pair = pair
        self.reduce = conv(width, inner, 1, **convolution) if bottleneck else None
        self.reduce_norm = BatchNorm(inner, **options) if bottleneck else None
        kernel_init = kernel_init or (kaiming_normal if inner != width else identity_kernel)
        self.conv = conv(inner, width, window, kernel_init=kernel_init, **convolution)
        self.norm = BatchNorm(width, **options)
        self.spectrum_relu = SpectrumReLU(grid, **options) if spectrum_size else None
        self.gate = nnx.Param(jnp.asarray(gate_init, options["param_dtype"])) if gate else None
        self.features = features
        self.rank = rank
        self.groups = groups
        self.temporal_kernel = temporal_kernel
        self.temporal_pooling = temporal_pooling
        self.dtype = numerics.get("dtype")
        self.spectrum_size = None if spectrum_size is None else tuple(spectrum_size)

    def set_view(self, implementation: Implementation | None = None) -> None:
        if implementation is not None and isinstance(self.pair, RealFFT):
            self.pair = dataclasses.replace(self.pair, implementation=implementation)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        size = self.spectrum_size
        if size is not None and x.shape[-len(size) - 1 : -1] != size:
            raise ValueError(
                f"the map is {x.shape[-len(size) - 1 : -1]}; this block's SpectrumReLU was built "
                f"for {size}"
            )
        pair = self.pair() if isinstance(self.pair, nnx.Module) else self.pair
        x = x.astype(self.dtype or common(x, self.conv.kernel[...]))
        s = pair.forward(x.astype(with_range(x.dtype)))
        width = pair.multiplier * self.features
        if s.shape[-1] != width:
            raise ValueError(
                f"pair.forward gives {s.shape[-1]} channels; expected {width}, that is "
                f"{pair.multiplier} times {self.features}"
            )
        y = pair.inverse(self.phi(s), x.shape[1:-1]).astype(x.dtype)
        if y.shape != x.shape:
            raise ValueError(f"pair.inverse gives {y.shape}; expected {x.shape}, as forward took")
        if self.gate is not None:
            y = y * self.gate[...].astype(y.dtype)
        return x + y

    def phi(self, s: jax.Array) -> jax.Array:
        """Convolution, normalisation and ReLU of a spectrum ``[N, *grid, multiplier * C]``."""
        if self.reduce is not None:
            s = nnx.relu(self.reduce_norm(self.reduce(s)))
        s = self.norm(self.conv(s))
        s = nnx.relu(s) if self.spectrum_relu is None else self.spectrum_relu(s)
        if self.temporal_pooling is not None:
            s = pool_frames(s, self.temporal_kernel, self.temporal_pooling)
        return s


def srl_fft(
    features: int,
    *,
    rank: int = 2,
    groups: int = 8,
    spectrum_size: tuple[int, ...] | None = None,
    transform_time: bool = False,
    temporal_kernel: int | None = None,
    norm: Norm = "backward",
    implementation: Implementation = "auto",
    rngs: nnx.Rngs,
    **options: Any,
) -> SpectralResidual:
    """Build the Fourier block: gate 0 at first, un-normalised transform, 8 groups, as published.

    For video (``rank=3``) the frames are transformed one by one and the convolution covers three
    of them; ``transform_time`` transforms time as well, with a pointwise convolution.
    ``options`` are those of `SpectralResidual`.
    """
    pair = RealFFT(_pair_rank(rank, transform_time), groups, norm, implementation)
    if temporal_kernel is None:
        temporal_kernel = 3 if rank == 3 and not transform_time else 1
    return SpectralResidual(
        features,
        pair=pair,
        rank=rank,
        groups=groups,
        temporal_kernel=temporal_kernel,
        spectrum_size=spectrum_size,
        rngs=rngs,
        **options,
    )


def srl_dct(
    features: int,
    *,
    rank: int = 2,
    groups: int = 8,
    transform_time: bool = False,
    temporal_kernel: int | None = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> SpectralResidual:
    """Build the cosine block: the spectral residual block in the domain of the orthonormal DCT-II.

    The spectrum is real and as large as the map, so that the block has half the channels of
    `srl_fft` in its domain, and the matrices of `srl_lo` without learning them. Options for video
    as in `srl_fft`; ``options`` are those of `SpectralResidual`. No paper has it; the transform is
    that of Ahmed, Natarajan and Rao, "Discrete Cosine Transform", 1974.
    """
    if temporal_kernel is None:
        temporal_kernel = 3 if rank == 3 and not transform_time else 1
    return SpectralResidual(
        features,
        pair=pairs.Cosine(_pair_rank(rank, transform_time)),
        rank=rank,
        groups=groups,
        temporal_kernel=temporal_kernel,
        rngs=rngs,
        **options,
    )


def srl_lo(
    features: int,
    *,
    size: tuple[int, ...],
    rank: int = 2,
    groups: int = 2,
    orthogonal: Literal["householder", "qr"] = "householder",
    spectrum_relu: bool = False,
    transform_time: bool = False,
    temporal_kernel: int | None = None,
    gate: bool = False,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> SpectralResidual:
    """Build the learned orthogonal block for maps of ``size``: 2 groups and no gate, as published.

    ``size`` is H, W. The matrices are products of reflections, or with ``orthogonal="qr"`` as
    published (see `RetractedPair`). For video as `srl_fft`; with ``transform_time`` ``size`` is
    T, H, W.
    """
    kinds = {"householder": HouseholderPair, "qr": RetractedPair}
    if orthogonal not in kinds:
        raise ValueError(
            f"orthogonal={orthogonal!r}; expected one of {', '.join(map(repr, kinds))}"
        )
    size = tuple(size)
    if len(size) != _pair_rank(rank, transform_time):
        raise ValueError(f"size={size}; expected {'T, ' * (len(size) == 2)}H, W for this block")
    for length in size:
        check_positive(size=length)
    shared = dict(param_dtype=param_dtype, precision=precision, rngs=rngs)
    if temporal_kernel is None:
        temporal_kernel = 3 if rank == 3 and not transform_time else 1
    return SpectralResidual(
        features,
        pair=kinds[orthogonal](size, **shared),
        rank=rank,
        groups=groups,
        temporal_kernel=temporal_kernel,
        gate=gate,
        spectrum_size=size if spectrum_relu else None,
        **shared,
        **options,
    )


def _check_pair(pair):
    is_module = isinstance(pair, nnx.Module)
    interface = ("__call__",) if is_module else ("forward", "inverse")
    missing = [name for name in (*interface, "multiplier") if not hasattr(pair, name)]
    if missing:
        what = "an object with forward, inverse and multiplier, as functional.pairs.TransformPair"
        raise TypeError(f"pair={pair!r} has no {', '.join(missing)}; expected {what}")


def _pair_rank(rank, transform_time):
    if transform_time and rank != 3:
        raise ValueError(f"transform_time=True needs rank=3; got rank={rank!r}")
    return 3 if transform_time else 2


def _spectrum_grid(pair, features, size):
    for length in size:
        check_positive(spectrum_size=length)

    def forward(x):
        return (pair() if isinstance(pair, nnx.Module) else pair).forward(x)

    x = jax.ShapeDtypeStruct((1, *size, features), jnp.float32)
    return jax.eval_shape(forward, x).shape[1:-1]
