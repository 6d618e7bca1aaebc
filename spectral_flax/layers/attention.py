# SPDX-License-Identifier: Apache-2.0
"""Squeeze-and-excitation, double and criss-cross attention, and graph reasoning."""

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from spectral_flax.arrays import wide
from spectral_flax.functional import attention
from spectral_flax.functional.attention import flatten_positions
from spectral_flax.layers.activations import LeakyReLU
from spectral_flax.layers.checks import (
    as_channels_last,
    as_map,
    check_multiple,
    check_positive,
    check_rank,
)
from spectral_flax.layers.conv import conv, linear
from spectral_flax.layers.initializers import normal, zeros
from spectral_flax.layers.norm import BatchNorm, ConvNormAct
from spectral_flax.layers.numerics import Numerics, for_sums, types_of


class SqueezeExcite(nnx.Module):
    """Scale each channel by a gate computed from all: ``[N, *spatial, C] -> [N, *spatial, C]``.

    Global mean, linear to C // reduction, ReLU, linear to C, sigmoid. Hu et al., CVPR 2018.
    """

    def __init__(
        self,
        features: int,
        reduction: int = 16,
        **numerics: Unpack[Numerics],
    ):
        if features < reduction:
            raise ValueError(f"features={features} is below reduction={reduction}")
        self.reduce = linear(features, features // reduction, **numerics)
        self.expand = linear(features // reduction, features, **numerics)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_channels_last(x, self.expand.out_features)
        if 0 in x.shape[1:]:
            raise ValueError(f"x has shape {x.shape}; expected no empty axis but that of the batch")
        gate = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
        gate = nnx.sigmoid(self.expand(nnx.relu(self.reduce(gate))))
        return x.astype(gate.dtype) * gate


class DoubleAttention(nnx.Module):
    """Gather descriptors of a map, distribute them to positions: ``[N, *spatial, C]`` to the same.

    ``inner_features`` and ``descriptors`` are C // 4 unless given. ``distribute="channels"`` is
    the paper's softmax over the descriptors, "positions" that of the code of spectral residual
    learning. The scale of the last normalisation starts at zero: the identity at first.

    Chen et al., "A^2-Nets: Double Attention Networks", NeurIPS 2018.
    """

    folds = (("expand", "norm"),)

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        inner_features: int | None = None,
        descriptors: int | None = None,
        distribute: str = "channels",
        **numerics: Unpack[Numerics],
    ):
        check_rank(rank)
        if distribute not in ("channels", "positions"):
            raise ValueError(f"distribute={distribute!r}; expected 'channels' or 'positions'")
        if inner_features is None or descriptors is None:
            check_multiple("features", features, reduction=4)
        inner_features = features // 4 if inner_features is None else inner_features
        descriptors = features // 4 if descriptors is None else descriptors
        check_positive(features=features, inner_features=inner_features, descriptors=descriptors)
        options = dict(rank=rank, use_bias=True, kernel_init=normal(0.01), **numerics)
        self.feature = conv(features, inner_features, **options)
        self.gather = conv(features, descriptors, **options)
        self.distribution = conv(features, descriptors, **options)
        self.expand = conv(inner_features, features, **options)
        self.norm = BatchNorm(features, scale_init=zeros, **types_of(numerics))
        self.features = features
        self.rank = rank
        self.distribute = distribute
        self.precision = numerics.get("precision")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        a, b, v = (
            flatten_positions(layer(x)) for layer in (self.feature, self.gather, self.distribution)
        )
        options = dict(distribute=self.distribute, precision=self.precision)
        y = attention.double_attention(a, b, v, **options)
        y = self.norm(self.expand(y.reshape(*x.shape[:-1], y.shape[-1])))
        return x.astype(y.dtype) + y

    def query_maps(self, x: jax.Array, position: tuple[int, ...]) -> dict[str, jax.Array]:
        """Return what one position looks at by name, each ``[N, *spatial]``, in float32 at least.

        "weights" is the sum of what all descriptors gather, each as often as the position takes it;
        beside it what those gather that it takes most of.
        """
        x = as_map(x, self.rank, self.features)
        b, v = (flatten_positions(layer(x)) for layer in (self.gather, self.distribution))
        gathered, taken = attention.double_attention_weights(b, v, distribute=self.distribute)
        taken = taken[:, int(np.ravel_multi_index(position, x.shape[1:-1]))]
        _, most = lax.top_k(taken, min(3, taken.shape[-1]))
        maps = {"weights": jnp.einsum("nmk,nk->nm", gathered, taken)}
        for place, descriptor in zip(("1st", "2nd", "3rd"), most.T, strict=False):
            gathering = jnp.take_along_axis(gathered, descriptor[:, None, None], axis=-1)
            maps[f"{place} descriptor"] = gathering[..., 0]
        return {name: m.reshape(x.shape[:-1]) for name, m in maps.items()}


class CrissCrossAttention(nnx.Module):
    """Attend to the row and the column of each pixel: ``[N, *, H, W, C]`` to the same.

    ``x + gamma * attention``, where gamma is a learned scalar that starts at 0; frames of a video
    are treated one by one. ``inner_features``, of queries and keys, is C // 8 unless given.

    Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019.
    """

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        inner_features: int | None = None,
        **numerics: Unpack[Numerics],
    ):
        check_rank(rank)
        check_positive(features=features)
        inner_features = max(1, features // 8) if inner_features is None else inner_features
        check_positive(inner_features=inner_features)
        options = dict(rank=rank, use_bias=True, **numerics)
        self.query = conv(features, inner_features, **options)
        self.key = conv(features, inner_features, **options)
        self.value = conv(features, features, **options)
        self.gamma = nnx.Param(zeros(None, (), types_of(numerics)["param_dtype"]))
        self.features = features
        self.rank = rank
        self.precision = numerics.get("precision")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        q, k, v = self.query(x), self.key(x), self.value(x)
        y = attention.criss_cross_attention(q, k, v, precision=self.precision)
        return x.astype(y.dtype) + self.gamma[...].astype(y.dtype) * y

    def query_maps(
        self, x: jax.Array, position: tuple[int, ...], recurrences: int = 1
    ) -> dict[str, jax.Array]:
        """Return the weights of one position over all by name, ``[N, *, H, W]``.

        Of several ``recurrences`` the weights are composed: the last one's look at positions, whose
        weights are those of the one before. The sum with the map itself is left out. In float32 at
        least.
        """
        x = as_map(x, self.rank, self.features)
        inputs = [x]
        for _ in range(recurrences - 1):
            inputs.append(self(inputs[-1]))
        weights = jnp.zeros(x.shape[:-1], wide(x.dtype)).at[(slice(None), *position)].set(1)
        for x in reversed(inputs):
            q, k = self.query(x), self.key(x)
            column, row = attention.criss_cross_weights(q, k, precision=self.precision)
            highest = dict(precision=lax.Precision.HIGHEST)
            down = jnp.einsum("...hw,...hwg->...gw", weights, column, **highest)
            weights = down + jnp.einsum("...hw,...hwv->...hv", weights, row, **highest)
        return {"weights": weights}


class RecurrentCrissCross(nnx.Module):
    """Criss-cross attention, repeated, as a residual block: ``[N, *, H, W, C]`` to the same.

    A 3x3 convolution to C // reduction channels, ``recurrences`` applications of one
    `CrissCrossAttention`, after two of which each pixel has seen all, a 3x3 convolution back;
    each convolution has a normalisation and a leaky ReLU of slope 0.01. The sum with ``x`` is
    that of spectral residual learning's version. Huang et al., ICCV 2019.
    """

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        recurrences: int = 2,
        reduction: int = 4,
        inner_features: int | None = None,
        **numerics: Unpack[Numerics],
    ):
        check_rank(rank)
        check_positive(recurrences=recurrences)
        check_multiple("features", features, reduction=reduction)
        options = dict(rank=rank, **numerics)
        window = (1, 3, 3)[-rank:]
        leaky = LeakyReLU(0.01)
        inner = features // reduction
        self.reduce = ConvNormAct(features, inner, window, activation=leaky, **options)
        self.attention = CrissCrossAttention(inner, inner_features=inner_features, **options)
        self.expand = ConvNormAct(inner, features, window, activation=leaky, **options)
        self.features = features
        self.rank = rank
        self.recurrences = recurrences

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        y = self.reduce(x)
        for _ in range(self.recurrences):
            y = self.attention(y)
        y = self.expand(y)
        return x.astype(y.dtype) + y

    def query_maps(self, x: jax.Array, position: tuple[int, ...]) -> dict[str, jax.Array]:
        """Return the composed weights of one position by name (see `CrissCrossAttention`)."""
        x = as_map(x, self.rank, self.features)
        return self.attention.query_maps(self.reduce(x), position, self.recurrences)


class GraphReasoning(nnx.Module):
    """Reason on a graph whose nodes are gathered from a map: ``[N, *spatial, C]`` to the same.

    ``nodes`` of 2 * nodes states each (``states`` if given) are gathered by a learned projection,
    mixed over nodes and over states, and spread by the same projection. ``normalize`` divides
    the nodes by the number of positions. The scale of the last normalisation starts at zero: the
    identity at first. ``nodes`` is C // 4 unless given.

    Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019.
    """

    folds = (("expand", "norm"),)

    def __init__(
        self,
        features: int,
        *,
        rank: int = 2,
        nodes: int | None = None,
        states: int | None = None,
        normalize: bool = False,
        **numerics: Unpack[Numerics],
    ):
        check_rank(rank)
        if nodes is None:
            check_multiple("features", features, reduction=4)
            nodes = features // 4
        states = 2 * nodes if states is None else states
        check_positive(features=features, nodes=nodes, states=states)
        self.state = conv(features, states, rank=rank, use_bias=True, **numerics)
        self.projection = conv(features, nodes, rank=rank, use_bias=True, **numerics)
        sums = for_sums(numerics)
        self.mix_nodes = conv(nodes, nodes, rank=1, use_bias=True, **sums)
        self.mix_states = conv(states, states, rank=1, **sums)
        self.expand = conv(states, features, rank=rank, **sums)
        self.norm = BatchNorm(features, epsilon=1e-4, scale_init=zeros, **types_of(numerics))
        self.features = features
        self.rank = rank
        self.normalize = bool(normalize)
        self.precision = numerics.get("precision")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_map(x, self.rank, self.features)
        states, projection = (
            flatten_positions(self.state(x)),
            flatten_positions(self.projection(x)),
        )
        options = dict(precision=self.precision)
        v = attention.gather_nodes(states, projection, normalize=self.normalize, **options)
        v = nnx.relu(v + self.mix_nodes(v))
        v = self.mix_states(v.swapaxes(-1, -2)).swapaxes(-1, -2)
        y = attention.scatter_nodes(v, projection, **options)
        y = self.norm(self.expand(y.reshape(*x.shape[:-1], y.shape[-1]))).astype(states.dtype)
        return x.astype(y.dtype) + y
