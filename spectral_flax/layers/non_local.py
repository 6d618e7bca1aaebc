# SPDX-License-Identifier: Apache-2.0
"""Non-local and compact generalised non-local blocks for images and videos."""

import math
from typing import Any, Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.arrays import wide, with_range
from spectral_flax.functional import attention
from spectral_flax.functional.attention import flatten_positions
from spectral_flax.functional.pooling import max_pool
from spectral_flax.kernels.convolution import whole_maps
from spectral_flax.kernels.ring import ring_attention
from spectral_flax.layers.checks import as_map, check_multiple, check_positive, check_rank
from spectral_flax.layers.conv import conv
from spectral_flax.layers.initializers import normal, zeros
from spectral_flax.layers.norm import BatchNorm
from spectral_flax.layers.numerics import Numerics, for_sums, types_of

Mode = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


class NonLocal(nnx.Module):
    """Add to each position a weighted sum over all: ``[N, *spatial, C] -> [N, *spatial, C]``.

    Queries, keys and values are 1x1 convolutions of the map, and another one with a normalisation
    whose scale starts at zero leads back, so that the block is the identity at first. Memory
    grows as the number of positions; only `attention_maps` forms all weights.

    Args:
      features: channels C of the map.
      rank: 2 for images, 3 for videos, where a position is of a frame and its place.
      mode: how weights are computed. "embedded_gaussian": softmax of products; "gaussian": the
        same of the map's own channels, without queries and keys; "dot_product" and
        "concatenation": products, or a rectified linear form of both, over the number of keys.
      inner_features: channels of queries, keys and values; None is C // 2.
      sub_sample: take the maximum of each 2x2 positions of a frame before keys and values.
      pool_projected: take it of the keys and values, not of the map before them (TSM's code).
      scale: factor of the products before the softmax; None is ``inner_features ** -0.5``, and 1
        for "gaussian".
      use_bias: of the 1x1 convolutions.
      chunk: queries treated at a time (see `functional.attention.softmax_attention`). Where devices
        share the rows of maps, keys and values go round instead: see `kernels.ring`.
      implementation: "chunked", or "cudnn" for the fused kernel on GPUs, which needs whole maps:
        where devices share rows, XLA gathers them.

    Wang et al., "Non-local Neural Networks", CVPR 2018.
    """

    folds = (("expand", "norm"),)

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        mode: Mode = "embedded_gaussian",
        inner_features: int | None = None,
        sub_sample: bool = False,
        pool_projected: bool = False,
        scale: float | None = None,
        use_bias: bool = True,
        chunk: int | None = None,
        implementation: Literal["chunked", "cudnn"] = "chunked",
        **numerics: Unpack[Numerics],
    ):
        check_rank(rank)
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode!r}; expected one of {', '.join(get_args(Mode))}")
        softmax = mode in ("embedded_gaussian", "gaussian")
        if scale is not None and not softmax:
            raise ValueError(f"scale={scale!r} with mode={mode!r}, which divides by the positions")
        if implementation not in (("chunked", "cudnn") if softmax else ("chunked",)):
            raise ValueError(
                f"implementation={implementation!r}; expected 'chunked', or 'cudnn' with a softmax"
            )
        if inner_features is None:
            check_multiple("features", features, reduction=2)
            inner_features = features // 2
        check_positive(features=features, inner_features=inner_features)
        if chunk is not None:
            check_positive(chunk=chunk)
        options = dict(rank=rank, use_bias=use_bias, kernel_init=normal(0.01), **numerics)
        embedded = mode != "gaussian"
        self.query = conv(features, inner_features, **options) if embedded else None
        self.key = conv(features, inner_features, **options) if embedded else None
        self.value = conv(features, inner_features, **options)
        score = options | dict(use_bias=False)
        self.score = conv(2 * inner_features, 1, **score) if mode == "concatenation" else None
        sums = options if softmax else options | for_sums(numerics)
        self.expand = conv(inner_features, features, **sums)
        self.norm = BatchNorm(features, scale_init=zeros, **types_of(numerics))
        self.features = features
        self.rank = rank
        self.mode = mode
        self.sub_sample, self.pool_projected = bool(sub_sample), bool(pool_projected)
        default = inner_features**-0.5 if embedded else 1.0
        self.scale = default if scale is None else float(scale)
        self.chunk = chunk
        self.implementation = implementation
        self.precision = numerics.get("precision")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        q, k, v = self._maps(x)
        dtype = v.dtype
        if self.mode in ("dot_product", "concatenation"):  # no mean of values, as a softmax gives
            v = v.astype(with_range(dtype))
        y = self.norm(self.expand(self._attend(q, k, v))).astype(dtype)
        return x.astype(y.dtype) + y

    def _attend(self, q, k, v):
        options = dict(precision=self.precision)
        if not whole_maps.value and self.mode != "dot_product" and self.implementation != "cudnn":
            if self.mode != "concatenation":
                return ring_attention(q, k, v, scale=self.scale, **options)
            a, b = (share.astype(wide(share.dtype)) for share in self._shares(q, k))
            # As products: <(a, 1), (1, b)> is a + b.
            q, k = jnp.stack([a, jnp.ones_like(a)], -1), jnp.stack([jnp.ones_like(b), b], -1)
            return ring_attention(q, k, v, weights="rectified", **options)
        shape = *q.shape[:-1], v.shape[-1]
        q, k, v = map(flatten_positions, (q, k, v))
        if self.mode == "dot_product":
            y = attention.dot_product_attention(q, k, v, **options)
        elif self.mode == "concatenation":
            options |= dict(chunk=self.chunk)
            y = attention.concatenation_attention(*self._shares(q, k), v, **options)
        else:
            options |= dict(chunk=self.chunk, implementation=self.implementation)
            y = attention.softmax_attention(q, k, v, scale=self.scale, **options)
        return y.reshape(shape)

    def attention_maps(self, x: jax.Array) -> jax.Array:
        """Return all weights, ``[N, *spatial, *key positions]``, in float32 at least."""
        x = as_map(x, self.rank, self.features)
        q, k, positions = self._operands(x)
        return self._weights(q, k).reshape(*x.shape[:-1], *positions)

    def query_maps(self, x: jax.Array, position: tuple[int, ...]) -> dict[str, jax.Array]:
        """Return the weights of one position by name, ``[N, *key positions]``; never all."""
        x = as_map(x, self.rank, self.features)
        q, k, positions = self._operands(x)
        query = int(np.ravel_multi_index(position, x.shape[1:-1]))
        weights = self._weights(q[:, query : query + 1], k)
        return {"weights": weights.reshape(len(x), *positions)}

    def _weights(self, q, k):
        """Return the weights of queries over keys, ``[N, queries, keys]``."""
        if self.mode == "dot_product":
            return attention.dot_product_weights(q, k, precision=self.precision)
        if self.mode == "concatenation":
            return attention.concatenation_weights(*self._shares(q, k))
        return attention.softmax_weights(q, k, scale=self.scale, precision=self.precision)

    def _operands(self, x):
        """Return queries and keys ``[N, positions, C]`` and the sizes of the key map."""
        q, k, _ = self._maps(x)
        return flatten_positions(q), flatten_positions(k), k.shape[1:-1]

    def _maps(self, x):
        """Return the maps of queries, keys and values."""
        before = _pooled if self.sub_sample and not self.pool_projected else lambda x: x
        after = _pooled if self.sub_sample and self.pool_projected else lambda x: x
        pooled = before(x)
        value = after(self.value(pooled))
        if self.mode == "gaussian":
            return x.astype(value.dtype), after(pooled).astype(value.dtype), value
        return self.query(x), after(self.key(pooled)), value

    def _shares(self, q, k):
        """Return what queries and keys add to the linear form of their concatenation."""
        kernel = self.score.kernel[...].reshape(2, -1).astype(q.dtype)
        return (
            jnp.einsum("...c,c->...", a, half, precision=self.precision)
            for a, half in zip((q, k), kernel, strict=True)
        )


def _pooled(x: jax.Array) -> jax.Array:
    """Take the maximum of 2x2 positions: ``[N, *, H, W, C] -> [N, *, H//2, W//2, C]``.

    A last odd row or column is left out, as published; a single one is kept.
    """
    *frames, height, width = x.shape[1:-1]
    window = *(1 for _ in frames), min(2, height), min(2, width)
    return max_pool(x, window, window)


def non_local(
    features: int, *, rank: int = 2, sub_sample: bool | None = None, rngs: nnx.Rngs, **options: Any
) -> NonLocal:
    """Build the published block: keys and values are sub-sampled in videos, not in images.

    ``options`` are those of `NonLocal`.
    """
    sub_sample = rank == 3 if sub_sample is None else sub_sample
    return NonLocal(features, rank=rank, sub_sample=sub_sample, rngs=rngs, **options)


class CompactNonLocal(nnx.Module):
    """Attend over positions and channels in groups: ``[N, *spatial, C] -> [N, *spatial, C]``.

    ``gamma=None`` is the dot product; a number the Gaussian kernel by its Taylor series of
    ``order``. No division by the length of the products; group normalisation follows, whose
    scale starts at zero: the identity at first. ``inner_features`` is C // 2 unless given.

    Yue et al., "Compact Generalized Non-local Network", NeurIPS 2018.
    """

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        groups: int = 8,
        inner_features: int | None = None,
        gamma: float | None = None,
        order: int = 3,
        **numerics: Unpack[Numerics],
    ):
        check_rank(rank)
        check_positive(order=order)
        if gamma is not None and not (gamma > 0 and math.isfinite(gamma)):
            raise ValueError(f"gamma={gamma!r}; expected a positive number or None")
        if inner_features is None:
            check_multiple("features", features, reduction=2)
            inner_features = features // 2
        check_multiple("inner_features", inner_features, groups=groups)
        check_multiple("features", features, groups=groups)
        options = dict(rank=rank, kernel_init=normal(0.01), **numerics)
        self.query = conv(features, inner_features, **options)
        self.key = conv(features, inner_features, **options)
        self.value = conv(features, inner_features, **options)
        sums = for_sums(numerics)
        self.expand = conv(inner_features, features, feature_group_count=groups, **options | sums)
        self.norm = nnx.GroupNorm(
            features,
            num_groups=groups,
            epsilon=1e-5,
            use_fast_variance=False,
            scale_init=zeros,
            bias_init=zeros,
            rngs=numerics["rngs"],
            **types_of(sums),
        )
        self.features = features
        self.rank = rank
        self.groups = groups
        self.gamma = gamma
        self.order = order

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        t, p, g = (flatten_positions(layer(x)) for layer in (self.query, self.key, self.value))
        options = dict(groups=self.groups, gamma=self.gamma, order=self.order)
        # The sums grow with the map: they stay in float32 at least up to the normalisation.
        y = attention.compact_attention(t, p, g, **options)
        y = y.reshape(*x.shape[:-1], y.shape[-1]).astype(with_range(t.dtype))
        with jax.numpy_dtype_promotion("standard"):  # Flax mixes dtypes in there
            y = self.norm(self.expand(y)).astype(t.dtype)
        return x.astype(y.dtype) + y


RBF_GAMMA = 1e-4
"""Of the Gaussian kernel, as published."""


def compact_non_local_rbf(
    features: int, *, gamma: float = RBF_GAMMA, rngs: nnx.Rngs, **options: Any
) -> CompactNonLocal:
    """Build the Gaussian form of `CompactNonLocal`, whose ``options`` it takes."""
    return CompactNonLocal(features, gamma=gamma, rngs=rngs, **options)
