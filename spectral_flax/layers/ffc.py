# SPDX-License-Identifier: Apache-2.0
"""Fast Fourier convolution and its parts.

Chi, Jiang and Mu, "Fast Fourier Convolution", NeurIPS 2020.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from spectral_flax.arrays import as_floating, common, with_range
from spectral_flax.functional import fourier
from spectral_flax.functional.fourier import RealFFT
from spectral_flax.functional.padding import reflect
from spectral_flax.functional.pooling import average_pool
from spectral_flax.kernels import whole_maps
from spectral_flax.layers.conv import (
    Padding,
    Size,
    as_padding,
    as_tuple,
    conv,
    fused_convolution,
    with_mirrored_rows,
)
from spectral_flax.layers.norm import BatchNorm, ConvNormAct
from spectral_flax.layers.numerics import ConvNumerics, for_sums, types_of
from spectral_flax.layers.windows import windows


class FourierUnit(nnx.Module):
    """Pointwise convolution of the spectrum, so that every output sees the whole map.

    ``[N, *spatial, in_features] -> [N, *spatial, out_features]``: half spectrum over H and W (of
    each frame of a video, ``rank=3``), grouped 1x1 convolution, batch normalisation, ReLU, inverse.
    With ``quarters`` it is a local Fourier unit, of the map cut in four, and repeats its result.
    ``nnx.view(model, implementation=...)`` changes how the transforms are computed.
    """

    folds = (("conv", "norm"),)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        feature_group_count: int = 1,
        rank: int = 2,
        quarters: bool = False,
        norm: fourier.Norm = "ortho",
        implementation: fourier.Implementation = "auto",
        **numerics: Unpack[ConvNumerics],
    ):
        groups = feature_group_count
        inputs = 4 * in_features if quarters else in_features
        name_of_inputs = "4 * in_features" if quarters else "in_features"
        for name, features in ((name_of_inputs, inputs), ("out_features", out_features)):
            if groups < 1 or features % groups:
                multiple = f"a multiple of feature_group_count={groups}"
                raise ValueError(f"{name}={features} is not {multiple}")
        sums = for_sums(numerics)  # over the map, which a spectrum holds
        options = dict(rank=rank, feature_group_count=groups)
        self.conv = conv(2 * inputs, 2 * out_features, **options, **sums)
        self.norm = BatchNorm(2 * out_features, **types_of(sums))
        self.groups = groups
        self.dtype = numerics.get("dtype")
        self.transform = RealFFT(2, groups, norm, implementation, quarters=quarters)

    def set_view(self, implementation: fourier.Implementation | None = None) -> None:
        if implementation is not None:
            self.transform = dataclasses.replace(self.transform, implementation=implementation)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_floating(x=x)
        s = self.transform.forward(x.astype(with_range(x.dtype)))
        s = nnx.relu(self.norm(self.conv(s)))
        y = self.transform.inverse(s, x.shape[1:-1])
        return y.astype(self.dtype or common(x, self.conv.kernel[...]))


class SpectralTransform(nnx.Module):
    """The global path of an FFC: ``[N, *spatial, in_features] -> [N, *spatial', out_features]``.

    Average pooling by the strides, 1x1 convolution to half the width, Fourier unit and local
    Fourier unit (on a quarter of the channels, their map cut in four) beside the identity, 1x1
    convolution of the sum. Any map size: a stride keeps ``ceil(size / stride)`` positions, and
    odd sides are cut as in `split_quarters`. For videos (``rank=3``) the first convolution
    covers ``temporal_kernel`` frames.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        temporal_kernel: int = 1,
        strides: Size = 1,
        feature_group_count: int = 1,
        lfu: bool = True,
        rank: int = 2,
        implementation: fourier.Implementation = "auto",
        **numerics: Unpack[ConvNumerics],
    ):
        width = out_features // 2
        quarter = width // 4
        if width < 1 or (lfu and quarter < 1):
            expected = "8 or more for the local Fourier unit" if lfu else "2 or more"
            raise ValueError(f"out_features={out_features} of the global path; expected {expected}")
        options = dict(feature_group_count=feature_group_count, rank=rank, **numerics)
        self.reduce = ConvNormAct(in_features, width, (temporal_kernel, 1, 1)[-rank:], **options)
        unit = functools.partial(FourierUnit, implementation=implementation, **options)
        self.fourier_unit = unit(width, width)
        self.local_fourier_unit = unit(quarter, width, quarters=True) if lfu else None
        self.expand = conv(width, out_features, **options)
        self.strides = as_tuple(strides, rank, "strides")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.reduce(average_pool(x, self.strides))
        y = x + self.fourier_unit(x)
        if self.local_fourier_unit is not None:
            y += self.local_fourier_unit(x[..., : x.shape[-1] // 4])
        return self.expand(y)


class FFC(nnx.Module):
    """Fast Fourier convolution: ``[N, *spatial, in_features] -> [N, *spatial', out_features]``.

    Of the input channels the last ``int(ratio_in * in_features)`` are the global path, of the
    output channels the last ``int(ratio_out * out_features)``. Local output is a convolution of
    all channels (local→local plus global→local); global output is a convolution of the local ones
    plus the spectral transform of the global ones. ``ratio_in = ratio_out = 0`` is the plain
    convolution.

    Arguments as of ``nnx.Conv`` where they have its names, with the defaults of `conv.conv`: no
    bias, and ``padding=None`` in place of "SAME" (the same at stride 1 with odd kernels).
    ``kernel_init`` and ``bias_init`` draw every convolution.

    ``local_to_global=False`` and ``global_to_local=False`` cut the exchange between the paths (the
    paper's ablation). ``padding_mode="reflect"`` pads the convolutions by reflection. With groups,
    every convolution is grouped, those of the spectral transform in half as many groups. Where few
    channels are global the convolutions to both outputs are computed as one, unless
    ``nnx.view(model, fuse_outputs=False)`` keeps them apart. A kernel that covers several frames of
    a video does so on every path. The result has the size of the convolution's whatever the window,
    its padding and the strides: the global path averages as many blocks of its map.

    Raises:
      ValueError: a ratio lies outside [0, 1] or, not being 0, leaves no channel to the global
        path; an output path has no input; padding by reflection is "SAME"; or the kernel is larger
        than the map.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 3,
        strides: Size = 1,
        *,
        ratio_in: float = 0.5,
        ratio_out: float = 0.5,
        lfu: bool = True,
        local_to_global: bool = True,
        global_to_local: bool = True,
        rank: int = 2,
        padding: Padding = None,
        padding_mode: str = "zeros",
        kernel_dilation: Size = 1,
        feature_group_count: int = 1,
        use_bias: bool = False,
        implementation: fourier.Implementation = "auto",
        **numerics: Unpack[ConvNumerics],
    ):
        in_global = split_channels(in_features, ratio_in, "ratio_in")
        out_global = split_channels(out_features, ratio_out, "ratio_out")
        in_local, out_local = in_features - in_global, out_features - out_global
        groups = feature_group_count
        options = dict(rank=rank, strides=strides, feature_group_count=groups, **numerics)
        if padding_mode not in ("zeros", "reflect"):
            raise ValueError(f"padding_mode={padding_mode!r}; expected 'zeros' or 'reflect'")
        self.windows = windows(rank, kernel_size, strides, padding, kernel_dilation)
        self.pad = None
        if padding_mode == "reflect":  # one padded copy serves all convolutions
            self.pad = as_padding(padding, [window.extent for window in self.windows])
            if self.pad == "SAME":
                raise ValueError("padding='SAME' with padding_mode='reflect'; expected numbers")
            padding = 0

        def convolution(inputs: int, outputs: int):
            if not (inputs and outputs):
                return None
            window = dict(padding=padding, kernel_dilation=kernel_dilation, use_bias=use_bias)
            return conv(inputs, outputs, kernel_size, **window, **options)

        # Summing two convolutions is one convolution of the concatenated channels, unless grouped.
        fuse_inputs = groups == 1 and global_to_local
        self.to_local = convolution(in_features if fuse_inputs else in_local, out_local)
        self.global_to_local = (
            convolution(in_global, out_local) if global_to_local and not fuse_inputs else None
        )
        self.local_to_global = convolution(in_local, out_global) if local_to_global else None
        self.temporal_kernel = as_tuple(kernel_size, rank, "kernel_size")[0] if rank == 3 else 1
        spectral = options | dict(lfu=lfu, implementation=implementation)
        spectral |= dict(temporal_kernel=self.temporal_kernel)
        spectral |= dict(feature_group_count=max(1, groups // 2))
        there = in_global and out_global
        self.global_to_global = (
            SpectralTransform(in_global, out_global, **spectral) if there else None
        )
        # As one convolution, both convolutions of the local input have a kernel with zeros where
        # the global input would meet the global output.
        zeros = in_global * out_global / (in_features * out_features)
        both_paths = bool(out_local and out_global and in_local)
        self.fuse_inputs = fuse_inputs
        self.fuse_outputs = fuse_inputs and local_to_global and both_paths and zeros <= _FEW_ZEROS
        self.in_features = in_features
        self.out_features = out_features
        self.in_local = in_local
        self.out_local = out_local
        self._require_inputs(
            f"ratio_in={ratio_in}, ratio_out={ratio_out}, local_to_global={local_to_global}, "
            f"global_to_local={global_to_local}"
        )

    def _require_inputs(self, given: str) -> None:
        """Raise ValueError, naming the options ``given``, if an output path has no input."""
        out_global = self.out_features - self.out_local
        for name, size, sources in (
            ("local", self.out_local, (self.to_local, self.global_to_local)),
            ("global", out_global, (self.local_to_global, self.global_to_global)),
        ):
            if size and not any(sources):
                raise ValueError(f"the {name} output has no input: {given}")

    def set_view(self, fuse_outputs: bool | None = None) -> None:
        if fuse_outputs is not None:
            self.fuse_outputs = self.fuse_outputs and fuse_outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} channels; expected {self.in_features}")
        counts = [w.count(n) for w, n in zip(self.windows, x.shape[1:-1], strict=True)]
        if min(counts) < 1:
            raise ValueError(f"x has shape {x.shape}: its map is smaller than the kernel")
        global_input = x[..., self.in_local :]
        if self.global_to_global is not None:
            global_input = self._fitted(global_input, counts)
        mirrored = self._mirrored_rows(x)
        if mirrored:
            x = reflect(x, (*self.pad[:-2], 0, self.pad[-1]))
        elif self.pad is not None:
            x = reflect(x, self.pad)
        # Where devices share rows, joint kernels may need more memory than a part of the map.
        if self.fuse_outputs and whole_maps.value:
            y = fused_convolution((self.to_local, self.local_to_global), x)
            if self.global_to_global is None:
                return y
            local_y, global_y = y[..., : self.out_local], y[..., self.out_local :]
            global_y += self.global_to_global(global_input)
            return jnp.concatenate([local_y, global_y], axis=-1)
        local_x, global_x = x[..., : self.in_local], x[..., self.in_local :]
        paths = []
        if self.out_local:
            to_local_x = x if self.fuse_inputs else local_x
            terms = [(self.to_local, to_local_x), (self.global_to_local, global_x)]
            paths.append(_sum(terms, mirrored))
        if self.out_local < self.out_features:
            terms = [(self.local_to_global, local_x), (self.global_to_global, global_input)]
            paths.append(_sum(terms, mirrored))
        return paths[0] if len(paths) == 1 else jnp.concatenate(paths, axis=-1)

    def _mirrored_rows(self, x: jax.Array) -> int:
        """Return the rows of padding that convolutions reflect for themselves, or 0.

        Where devices share rows, those of a padded map would lie elsewhere, and XLA would send
        them there.
        """
        if self.pad is None or whole_maps.value or len(self.pad) < 2:
            return 0
        rows, extent = self.pad[-2], self.windows[-2].extent
        return rows if rows < x.shape[-3] and 2 * rows < extent else 0

    def _fitted(self, x: jax.Array, counts: Sequence[int]) -> jax.Array:
        """Cut or pad a map so that the spectral transform gives as much of it as a convolution.

        The transform keeps ``ceil(size / stride)`` positions and, of an even number of frames that
        it sees at a time, one less. Blocks that are averaged start where a convolution padded by
        half its window looks, which is at 0; then the convolution's margins are added or left out.
        """
        counts = [counts[0] + (self.temporal_kernel + 1) % 2, *counts[1:]]
        margins = [w.margin for w in self.windows]
        if any(margins) and self.pad is not None:
            x = reflect(x, margins)
        elif any(margins):
            x = jnp.pad(x, [(0, 0), *((m, m) for m in margins), (0, 0)])
        cuts = []
        for n, count, w in zip(x.shape[1:-1], counts, self.windows, strict=True):
            start = w.start
            full = count * w.stride
            size = full if n - start <= full - w.stride else min(full, n - start)
            cuts.append((-start, size - (n - start), 0))
        if not any(map(any, cuts)):
            return x
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *cuts, (0, 0, 0)])


_FEW_ZEROS = 0.125  # fraction of a kernel up to which one convolution is as fast as two


def split_channels(features: int, ratio: float, name: str = "ratio") -> int:
    """Return the number of global channels: ``int(ratio * features)``, as published."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"{name}={ratio} lies outside [0, 1]")
    count = int(features * ratio)
    if ratio > 0 and count == 0:
        raise ValueError(f"{name}={ratio} of {features} channels leaves the global path empty")
    return count


def _sum(terms, mirrored: int) -> jax.Array:
    outputs = [
        with_mirrored_rows(layer, x, mirrored) if isinstance(layer, nnx.Conv) else layer(x)
        for layer, x in terms
        if layer is not None
    ]
    return sum(outputs[1:], outputs[0])
