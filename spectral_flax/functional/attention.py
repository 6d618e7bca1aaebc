# SPDX-License-Identifier: Apache-2.0
"""Attention over the positions of a map: non-local, double, compact, criss-cross and graphs.

Positions are one axis, ``[..., N, C]``, except in criss-cross attention: rows and columns.
Sums of products and exponentials are computed in float32 at least; results have the dtype of the
values unless a function says otherwise. Shapes that do not fit each other, and no positions to
attend to, raise ValueError; inputs that are not real floating arrays raise TypeError.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_flax.arrays import as_fitting, common, wide, with_range
from spectral_flax.kernels.pencils import by_columns, by_rows

# Scores of one example held at a time: as many as fit caches and still fill matrix units.
_SCORES = 1 << 20


def flatten_positions(x: jax.Array) -> jax.Array:
    """Return a map ``[N, *spatial, C]`` as ``[N, positions, C]``."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def softmax_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float = 1.0,
    chunk: int | None = None,
    implementation: Literal["chunked", "cudnn"] = "chunked",
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Average values: ``[..., N, D], [..., M, D], [..., M, C] -> [..., N, C]``.

    Query i weighs value j by the softmax over j of ``scale * <q_i, k_j>``. ``chunk`` queries are
    treated at a time and again in the backward pass, so that memory grows as N + M; None
    chooses by M, and treats small maps at once. ``implementation="cudnn"`` is the fused kernel of
    `jax.nn.dot_product_attention`, for NVIDIA GPUs and float16 or bfloat16 only.

    Wang et al., "Non-local Neural Networks", CVPR 2018, (embedded) Gaussian.
    """
    q, k, v = _operands("...nd ...md ...mc", q=q, k=k, v=v)
    if implementation == "cudnn":
        q, k, v = (_flat(a)[..., None, :] for a in (q, k, v))
        fused = jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")
        return fused[..., 0, :].reshape(*v.shape[:-3], *fused.shape[1:2], v.shape[-1])
    if implementation != "chunked":
        raise ValueError(f"implementation={implementation!r}; expected 'chunked' or 'cudnn'")

    def attend(q):
        scores = scale * _products(q, k, precision)
        # Dividing after the product saves a pass over the scores.
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)
        return (_weigh(weights, v, precision) / total).astype(v.dtype)

    return _by_chunks(attend, q, chunk, k.shape[-2])


def softmax_weights(
    q: jax.Array, k: jax.Array, *, scale: float = 1.0, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Return the weights of `softmax_attention`, ``[..., N, M]``, in float32 at least."""
    q, k = _operands("...nd ...md", q=q, k=k)
    return jax.nn.softmax(scale * _products(q, k, precision), axis=-1)


def dot_product_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Weigh values by products: ``[..., N, D], [..., M, D], [..., M, C] -> [..., N, C]``.

    The weight of value j for query i is ``<q_i, k_j> / M``; the keys meet the values first, so no
    weight is ever formed. Wang et al., CVPR 2018, dot product.
    """
    q, k, v = _operands("...nd ...md ...mc", q=q, k=k, v=v)
    context = _sum_products("...md,...mc->...dc", k, v, precision) / k.shape[-2]
    return _sum_products("...nd,...dc->...nc", q, context, precision).astype(v.dtype)


def dot_product_weights(
    q: jax.Array, k: jax.Array, *, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Return the weights of `dot_product_attention`, ``[..., N, M]``, in float32 at least."""
    q, k = _operands("...nd ...md", q=q, k=k)
    return _products(q, k, precision) / k.shape[-2]


def concatenation_attention(
    a: jax.Array,
    b: jax.Array,
    v: jax.Array,
    *,
    chunk: int | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Weigh values by rectified sums: ``[..., N], [..., M], [..., M, C] -> [..., N, C]``.

    The weight of value j for query i is ``max(0, a_i + b_j) / M``, where a and b are the two
    halves' shares of a linear form of concatenated features. ``chunk`` as in `softmax_attention`.
    Wang et al., CVPR 2018, concatenation.
    """
    a, b, v = _operands("...n ...m ...mc", a=a, b=b, v=v)

    def attend(a):
        weights = concatenation_weights(a[..., 0], b)
        return _weigh(weights, v, precision).astype(v.dtype)

    return _by_chunks(attend, a[..., None], chunk, b.shape[-1])


def concatenation_weights(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the weights of `concatenation_attention`, ``[..., N, M]``, in float32 at least."""
    a, b = (x.astype(_wide(x)) for x in _operands("...n ...m", a=a, b=b))
    return jax.nn.relu(a[..., :, None] + b[..., None, :]) / b.shape[-1]


def double_attention(
    a: jax.Array,
    b: jax.Array,
    v: jax.Array,
    *,
    distribute: Literal["channels", "positions"] = "channels",
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Gather features and spread them: ``[..., N, C], [..., N, K], [..., N, K] -> [..., N, C]``.

    K descriptors are averages of ``a`` with weights softmax(b) over the positions; each position
    takes their combination with weights softmax(v) over the K descriptors
    (``distribute="channels"``), or over the positions as the code of spectral residual learning has
    it. Chen et al., "A^2-Nets: Double Attention Networks", NeurIPS 2018.
    """
    a, b, v = _operands("...mc ...mk ...mk", a=a, b=b, v=v)
    gathering, distributing = double_attention_weights(b, v, distribute=distribute)
    descriptors = _sum_products("...nk,...nc->...kc", gathering.astype(a.dtype), a, precision)
    return _sum_products("...nk,...kc->...nc", distributing, descriptors, precision).astype(a.dtype)


def double_attention_weights(
    b: jax.Array, v: jax.Array, *, distribute: Literal["channels", "positions"] = "channels"
) -> tuple[jax.Array, jax.Array]:
    """Return the weights of `double_attention`, two ``[..., N, K]``, in float32 at least.

    Those with which positions are gathered into each descriptor, which sum to one over N, and those
    with which each position takes the descriptors.
    """
    axes = {"channels": -1, "positions": -2}
    if distribute not in axes:
        raise ValueError(f"distribute={distribute!r}; expected 'channels' or 'positions'")
    b, v = (x.astype(_wide(x)) for x in _operands("...mk ...mk", b=b, v=v))
    return jax.nn.softmax(b, axis=-2), jax.nn.softmax(v, axis=axes[distribute])


def compact_attention(
    t: jax.Array,
    p: jax.Array,
    g: jax.Array,
    *,
    groups: int = 1,
    order: int = 1,
    gamma: float | None = None,
) -> jax.Array:
    """Attend over positions and channels at once: three ``[..., N, C] -> [..., N, C]``.

    In each group of channels positions and channels are one long axis, and the output is
    ``sum_k a_k <p^k, g> t^k`` with powers elementwise: with ``gamma=None`` the dot product,
    ``a = (0, 1)``; with a number the Gaussian kernel's Taylor series up to ``order``,
    ``a_k = exp(-2 gamma) (2 gamma)^k / k!``, for k from 0. The sums grow with the map, so the
    result stays in float32 at least, to be normalised there.
    Yue et al., "Compact Generalized Non-local Network", NeurIPS 2018.
    """
    t, p, g = _operands("...mc ...mc ...mc", t=t, p=p, g=g)
    if t.shape[-1] % groups:
        raise ValueError(f"t has {t.shape[-1]} channels, no multiple of groups={groups}")
    if gamma is None:
        coefficients = {1: 1.0}
    else:
        coefficients = {
            k: math.exp(-2 * gamma) * (2 * gamma) ** k / math.factorial(k) for k in range(order + 1)
        }
    dtype = _wide(g)
    grouped = lambda a: a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups).astype(dtype)
    t, p, g = grouped(t), grouped(p), grouped(g)
    total = jnp.zeros((), dtype)
    for k, coefficient in coefficients.items():
        powers = p**k * g if k else g
        context = coefficient * powers.sum((-3, -1), keepdims=True)
        total = total + (context * t**k if k else context)
    total = jnp.broadcast_to(total, t.shape)
    return lax.collapse(total, total.ndim - 2)


def criss_cross_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Attend along row and column: two ``[..., H, W, D]`` and ``[..., H, W, C] -> [..., H, W, C]``.

    One softmax runs over the H + W - 1 positions that share the row or the column with a pixel;
    products are not scaled. Memory grows as H W (H + W).
    Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019.
    """
    q, k, v = as_fitting("...hwd ...hwd ...hwc", q=q, k=k, v=v)
    column, row, total = _criss_cross_exponentials(q, k, precision)
    y = _sum_products("...hwg,...gwc->...hwc", column.astype(v.dtype), by_columns(v), precision)
    y = by_rows(y) + _sum_products("...hwv,...hvc->...hwc", row.astype(v.dtype), v, precision)
    return (y / total).astype(v.dtype)


def criss_cross_weights(
    q: jax.Array, k: jax.Array, *, precision: lax.PrecisionLike = None
) -> tuple[jax.Array, jax.Array]:
    """Return the weights of `criss_cross_attention`, in float32 at least.

    Those of the column ``[..., H, W, H]``, 0 for the pixel itself, which is counted in the row, and
    those of the row ``[..., H, W, W]``; both together sum to one.
    """
    q, k = as_fitting("...hwd ...hwd", q=q, k=k)
    column, row, total = _criss_cross_exponentials(q, k, precision)
    return column / by_columns(total), row / total


def _criss_cross_exponentials(q, k, precision):
    """Return weights of column and row before they are divided by their sum, and the sum.

    Where devices share a map by its rows, they share those of the column by columns.
    """
    if 0 in q.shape[-3:-1]:
        raise ValueError(f"q has shape {q.shape}; expected no empty spatial axis")
    height = q.shape[-3]
    products = [by_columns(a) for a in (q, k)]
    column = _sum_products("...hwd,...gwd->...hwg", *products, precision)
    row = _sum_products("...hwd,...hvd->...hwv", q, k, precision)
    # The pixel itself is counted in its row only.
    itself = np.eye(height, dtype=bool).reshape((1,) * (q.ndim - 3) + (height, 1, height))
    column = jnp.where(itself, -jnp.inf, column)
    highest = [lax.stop_gradient(scores).max(-1, keepdims=True) for scores in (column, row)]
    peak = jnp.maximum(by_rows(highest[0]), highest[1])
    column, row = jnp.exp(column - by_columns(peak)), jnp.exp(row - peak)
    return column, row, by_rows(column.sum(-1, keepdims=True)) + row.sum(-1, keepdims=True)


def gather_nodes(
    states: jax.Array,
    projection: jax.Array,
    *,
    normalize: bool = False,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Gather positions into graph nodes: ``[..., L, S], [..., L, K] -> [..., S, K]``.

    Node k is the sum of all positions' states, weighted by ``projection``; with ``normalize``
    divided by L. Such sums do not fit into float16: those of float16 are float32.
    Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019.
    """
    states, projection = _operands("...ms ...mk", states=states, projection=projection)
    nodes = _sum_products("...ls,...lk->...sk", states, projection, precision)
    if normalize:
        nodes = nodes / states.shape[-2]
    return nodes.astype(with_range(states.dtype))


def scatter_nodes(
    nodes: jax.Array, projection: jax.Array, *, precision: lax.PrecisionLike = None
) -> jax.Array:
    """Spread nodes over positions again: ``[..., S, K], [..., L, K] -> [..., L, S]``.

    Those of float16 give float32, as in `gather_nodes`.
    """
    nodes, projection = as_fitting("...sk ...lk", nodes=nodes, projection=projection)
    y = _sum_products("...sk,...lk->...ls", nodes, projection, precision)
    return y.astype(with_range(nodes.dtype))


def _operands(shapes, **arrays):
    """Return arrays that fit, of which axis m, the positions attended to, is not empty."""
    result = as_fitting(shapes, **arrays)
    for word, (name, x) in zip(shapes.split(), zip(arrays, result, strict=True), strict=True):
        if "m" in word and x.shape[word.index("m") - len(word)] == 0:
            raise ValueError(f"{name} has shape {x.shape}; expected a position to attend to")
    return result


def _wide(x):
    return wide(x.dtype)


def _flat(x):
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _sum_products(equation, x, y, precision):
    dtype = common(x, y)
    x, y = x.astype(dtype), y.astype(dtype)
    return jnp.einsum(equation, x, y, precision=precision, preferred_element_type=_wide(x))


def _products(q, k, precision):
    return _sum_products("...nd,...md->...nm", q, k, precision)


def _weigh(weights, v, precision):
    return _sum_products("...nm,...mc->...nc", weights.astype(v.dtype), v, precision)


def _by_chunks(attend, q, chunk, keys):
    """Apply ``attend`` to ``chunk`` queries ``[..., N, D]`` at a time, recomputing it backward."""
    queries = q.shape[-2]
    if chunk is None:
        chunk = max(1, _SCORES // keys)
    elif isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk={chunk!r}; expected a positive integer or None")
    if chunk >= queries:
        return attend(q)
    count = -(-queries // chunk)
    chunk = -(-queries // count)  # as even as can be, so that little is padded
    padding = [(0, count * chunk - queries if i == q.ndim - 2 else 0) for i in range(q.ndim)]
    parts = jnp.pad(q, padding).reshape(*q.shape[:-2], count, chunk, q.shape[-1])
    y = lax.map(jax.checkpoint(attend), jnp.moveaxis(parts, -3, 0))
    y = jnp.moveaxis(y, 0, -3)
    return y.reshape(*y.shape[:-3], count * chunk, y.shape[-1])[..., :queries, :]
