# SPDX-License-Identifier: Apache-2.0
"""Bilinear attentional transforms of images and videos."""

import math
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from spectral_flax.functional import bilinear
from spectral_flax.functional.padding import repeat_last
from spectral_flax.functional.pooling import adaptive_average_pool, adaptive_max_pool
from spectral_flax.layers.checks import as_map, check_multiple, check_positive
from spectral_flax.layers.conv import conv
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics


class AttentionMaps(NamedTuple):
    """Matrices and weights of a bilinear attention; leading axes are [N] or [N, T], G groups."""

    p: jax.Array
    """Row matrices ``[..., G, n, n]``: output block i takes P[i, j] of block j."""
    q: jax.Array
    """Column matrices ``[..., G, m, m]``: output block l takes Q[k, l] of block k."""
    t: jax.Array | None
    """Frame matrices ``[N, temporal groups, n, n]``, or None."""
    activation: jax.Array
    """Weights A of the output positions, ``[..., G, H, W]``."""
    reprojection: jax.Array
    """``P^T A Q^T``, the weights of the input positions, ``[..., G, H, W]``."""

    def by_group(self) -> dict[str, jax.Array]:
        """Return the re-projection of each group by name, ``[N, *spatial]``."""
        groups = jnp.moveaxis(self.reprojection, -3, 0)
        return {f"group {number}": weights for number, weights in enumerate(groups, 1)}


class BilinearTransform(nnx.Module):
    """Multiply rows and columns of a map by matrices computed from it, then a 1x1 convolution.

    ``[N, H, W, C] -> [N, H, W, C]`` for ``rank=2``, ``[N, T, H, W, C]`` for ``rank=3``, where each
    frame has its own P and Q and, with ``temporal_groups``, the frames are mixed by a third matrix.
    For any H and W from ``grid`` on (T from ``temporal_grid``): see `functional.bilinear` for
    those that are no multiples. ``use_bias``: of the 1x1 convolutions that a normalisation
    follows.

    Chi, Yuan, Mu et al., CVPR 2020, grouped bilinear attentional transform.
    """

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        grid: int = 7,
        groups: int = 4,
        normalization: bilinear.Normalization = "sigmoid",
        temporal_groups: int = 0,
        temporal_grid: int = 4,
        use_bias: bool = True,
        **numerics: Unpack[Numerics],
    ):
        check_positive(grid=grid, groups=groups, temporal_grid=temporal_grid)
        check_multiple("features", features, groups=groups)
        if rank not in (2, 3):
            raise ValueError(f"rank={rank!r}; expected 2 (image) or 3 (video)")
        if temporal_groups:
            check_positive(temporal_groups=temporal_groups)
            check_multiple("features", features, temporal_groups=temporal_groups)
            if rank == 2:
                raise ValueError(
                    f"temporal_groups={temporal_groups} needs rank=3; an image has no time"
                )
        if normalization not in ("sigmoid", "softmax"):
            raise ValueError(f"normalization={normalization!r}; expected 'sigmoid' or 'softmax'")
        options = dict(rank=rank, **numerics)
        matrix = dict(padding=0, use_bias=True, **options)
        frame = (1,) * (rank - 2)
        entries = groups * grid * grid
        self.reduce = ConvNormAct(features, groups, use_bias=use_bias, **options)
        self.rows = conv(groups, entries, (*frame, grid, 1), **matrix)
        self.columns = conv(groups, entries, (*frame, 1, grid), **matrix)
        entries, window = temporal_groups * temporal_grid * temporal_grid, (temporal_grid, 1, 1)
        self.frames = conv(groups, entries, window, **matrix) if temporal_groups else None
        self.expand = ConvNormAct(features, features, use_bias=use_bias, **options)
        self.features = features
        self.rank = rank
        self.grid = grid
        self.groups = groups
        self.normalization = normalization
        self.temporal_groups = temporal_groups
        self.temporal_grid = temporal_grid
        self.precision = numerics.get("precision")

    def __call__(self, x: jax.Array) -> jax.Array:
        p, q, t = self.matrices(x)
        y = bilinear.bilinear_product(x, p, q, precision=self.precision)
        if t is not None:
            y = bilinear.temporal_product(y, t, precision=self.precision)
        return self.expand(y)

    def matrices(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Return P ``[..., G, n, n]``, Q ``[..., G, m, m]`` and the frames' matrix or None.

        Rows of P and of the frames' matrix sum to one, and columns of Q, in float32 at least.
        """
        x = as_map(x, self.rank, self.features)
        (n, t), (m, u) = bilinear.map_grid(*x.shape[-3:-1], self.grid)
        z = self.reduce(x)
        full = repeat_last(repeat_last(z, n * t, -3), m * u, -2)
        logits = self.rows(adaptive_max_pool(full, (n, 1)))
        p = self._matrix(logits, self.groups, self.grid, -1)
        logits = self.columns(adaptive_max_pool(full, (1, m)))
        q = self._matrix(logits, self.groups, self.grid, -2)
        if self.frames is None:
            return p, q, None
        n, t = bilinear.block_grid(x.shape[1], self.temporal_grid)
        pooled = adaptive_average_pool(z, (1, 1))
        pooled = adaptive_average_pool(repeat_last(pooled, n * t, 1), (n,), axes=(1,))
        logits = self.frames(pooled)
        square = self.temporal_groups, self.temporal_grid, self.temporal_grid
        logits = logits.reshape(len(x), logits.shape[1], *square)  # windows are in time
        logits = bilinear.merge_windows(logits)
        return p, q, bilinear.normalize(logits, "softmax", -1)

    def _matrix(self, logits, groups, size, axis):
        """Turn ``[..., windows, groups * size * size]`` (an axis of one aside) into matrices."""
        batch = logits.shape[: self.rank - 1]
        windows = math.prod(logits.shape[len(batch) : -1])
        logits = logits.reshape(*batch, windows, groups, size, size)
        return bilinear.normalize(bilinear.merge_windows(logits), self.normalization, axis)


class BilinearAttention(nnx.Module):
    """Residual block around a `BilinearTransform`: ``[N, *spatial, C] -> [N, *spatial, C]``.

    1x1 convolution to ``C // reduction``, the transform, 1x1 convolution back, each with
    normalisation and ReLU, dropout of whole channels, and the sum with x. Arguments that are not
    named here are those of `BilinearTransform`.

    Chi, Yuan, Mu et al., CVPR 2020; defaults of the published image classification code.
    """

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        reduction: int = 2,
        grid: int = 7,
        groups: int = 4,
        normalization: bilinear.Normalization = "sigmoid",
        temporal_groups: int = 0,
        temporal_grid: int = 4,
        use_bias: bool = True,
        dropout: float = 0.2,
        **numerics: Unpack[Numerics],
    ):
        check_positive(features=features, reduction=reduction)
        check_multiple("features", features, reduction=reduction)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r}; expected a rate from 0 up to, not including, 1")
        options = dict(rank=rank, **numerics)
        inner = features // reduction
        self.transform = BilinearTransform(
            inner,
            grid=grid,
            groups=groups,
            normalization=normalization,
            temporal_groups=temporal_groups,
            temporal_grid=temporal_grid,
            use_bias=use_bias,
            **options,
        )
        self.reduce = ConvNormAct(features, inner, use_bias=use_bias, **options)
        self.expand = ConvNormAct(inner, features, use_bias=use_bias, **options)
        channels = tuple(range(1, rank + 1))
        rngs = numerics["rngs"] if dropout else None
        self.dropout = nnx.Dropout(dropout, broadcast_dims=channels, rngs=rngs)
        self.features = features
        self.rank = rank

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        y = self.expand(self.transform(self.reduce(x)))
        return x.astype(y.dtype) + self.dropout(y)

    def attention_maps(self, x: jax.Array, activation: jax.Array | None = None) -> AttentionMaps:
        """Return the matrices that a map gets and what they look at.

        ``activation`` weighs the output positions, ``[N, G, H, W]`` (video ``[N, T, G, H, W]``);
        None is the mean of each group's channels after the spatial product. The mixing of frames is
        left out of the re-projection, which stays within a frame.
        """
        x = as_map(x, self.rank, self.features)
        y = self.reduce(x)
        p, q, t = self.transform.matrices(y)
        if activation is None:
            product = bilinear.bilinear_product(y, p, q, precision=lax.Precision.HIGHEST)
            product = product.reshape(*product.shape[:-1], p.shape[-3], -1).mean(-1)
            activation = jnp.moveaxis(product, -1, -3)
        expected = (*x.shape[:-3], p.shape[-3], *x.shape[-3:-1])
        if activation.shape != expected:
            raise ValueError(f"activation has shape {activation.shape}; expected {expected}")
        return AttentionMaps(p, q, t, activation, bilinear.reproject(activation, p, q))

    def query_maps(self, x: jax.Array, position: tuple[int, ...]) -> dict[str, jax.Array]:
        """Return what one position of each group looks at by name, each ``[N, *spatial]``.

        That is the re-projection of a single one; the mixing of frames is left out.
        """
        shape = (*x.shape[:-3], self.transform.groups, *x.shape[-3:-1])
        frame, (row, column) = position[:-2], position[-2:]
        place = (slice(None), *frame, slice(None), row, column)
        return self.attention_maps(x, jnp.zeros(shape).at[place].set(1)).by_group()


def bat(features: int, *, rank: int = 2, rngs: nnx.Rngs, **options: Any) -> BilinearAttention:
    """Build the published block for images, or for videos frame by frame.

    Images: 4 groups, sigmoids divided by their sum. Videos: 8 groups, softmax. ``options`` are
    those of `BilinearAttention`.
    """
    published = dict(groups=4) if rank == 2 else dict(groups=8, normalization="softmax")
    return BilinearAttention(features, rank=rank, rngs=rngs, **(published | options))


def bat3d(features: int, *, rank: int = 3, rngs: nnx.Rngs, **options: Any) -> BilinearAttention:
    """Build the published block that also mixes frames: `bat` for video with 4 temporal groups."""
    if rank != 3:
        raise ValueError(f"rank={rank!r}; bat3d is for video, rank=3")
    return bat(features, rank=rank, rngs=rngs, **(dict(temporal_groups=4) | options))
