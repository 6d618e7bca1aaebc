# SPDX-License-Identifier: Apache-2.0
"""Attention between all positions of maps whose rows are split over devices.

A device keeps its queries. Keys and values go round: each device works on those it has and sends
them to the next one, until all have met all, so that no device ever holds a whole map. The backward
pass sends the gradients of keys and values round with them. Liu, Zaharia and Abbeel, "Ring
Attention with Blockwise Transformers for Near-Infinite Context", arXiv 2310.01889, do so for
sequences; sums of exponentials as in Milakov and Gimelshein, "Online normalizer calculation for
softmax", arXiv 1805.02867.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning

from spectral_flax.arrays import common, wide
from spectral_flax.kernels.batch_parallel import as_configured, names_of, sharding_of
from spectral_flax.kernels.pencils import Names

# Scores of one example held at a time.
_SCORES = 1 << 20


def ring_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    weights: Literal["softmax", "rectified"] = "softmax",
    scale: float = 1.0,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Attend over maps: ``[N, *, H, W, D], [N, *, I, J, D], [N, *, I, J, C] -> [N, *, H, W, C]``.

    The weight of a key for a query is the softmax over keys of ``scale * <q, k>``, or ``max(0,
    scale * <q, k>)`` divided by the number of keys ("rectified"). Under ``jit`` the rows H and I
    may be split over devices, evenly or not. Sums are in float32 at least, the result has the dtype
    of ``v``. For reverse mode, once; forward mode and ``vmap`` have no rule.
    """
    if weights not in ("softmax", "rectified"):
        raise ValueError(f"weights={weights!r}; expected 'softmax' or 'rectified'")
    q, k = (a.astype(common(q, k)) for a in (q, k))
    keys = math.prod(k.shape[1:-1])
    attention = _Attention(weights, float(scale), precision, q.shape[-3], k.shape[-3], keys)
    return _attend(attention, q, k, v)


@dataclasses.dataclass(frozen=True)
class _Attention:
    """What does not depend on the arrays; numbers of rows and keys are those of whole maps."""

    weights: str
    scale: float
    precision: Any
    query_rows: int
    key_rows: int
    keys: int

    def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
        return self.scale * self.product("nid,njd->nij", q, k)

    def product(self, rule: str, a: jax.Array, b: jax.Array) -> jax.Array:
        dtype = wide(a.dtype, b.dtype)
        return jnp.einsum(rule, a, b, precision=self.precision, preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(attention, q, k, v):
    return _attend_forward(attention, q, k, v)[0]


def _attend_forward(attention, q, k, v):
    y, logarithm = _by_devices(as_configured(_forward), attention, "qkk", "qq")(q, k, v)
    return y, (q, k, v, y, logarithm)


def _attend_backward(attention, saved, cotangent):
    return _by_devices(as_configured(_backward), attention, "qkkqqq", "qkk")(*saved, cotangent)


_attend.defvjp(_attend_forward, _attend_backward)


@functools.cache
def _by_devices(
    function: Callable, attention: _Attention, arguments: str, results: str
) -> Callable[..., tuple[jax.Array, ...]]:
    """Return the function of maps, of which each device computes its own examples and rows.

    ``arguments`` and ``results`` say which have the rows of queries and which those of keys.
    """
    call = custom_partitioning(jax.jit(functools.partial(function, attention, None)))

    def split(mesh, shapes, given):
        rows = len(shapes[0].shape) - 3
        axes = [(axis, names_of(shapes, [axis] * len(shapes))) for axis in (0, rows)]
        return axes[1][1], tuple(sharding_of(mesh, shapes, shape, *axes) for shape in given)

    def infer(mesh, shapes, given):
        return split(mesh, shapes, given)[1]

    def partition(mesh, shapes, given):
        names, of_arguments = split(mesh, shapes, shapes)
        local = functools.partial(function, attention, names)
        return mesh, local, infer(mesh, shapes, given), of_arguments

    def rule(mesh, operands, given):
        def factors(number, kind, value):
            own = [f"{kind}{number}_{axis}" for axis in range(len(value.shape))]
            return " ".join(["b", *own[1:-3], f"{kind}rows", *own[-2:]])

        words = itertools.starmap(
            factors, zip(itertools.count(), arguments + results, (*operands, *given), strict=False)
        )
        left = ", ".join(itertools.islice(words, len(operands)))
        return f"{left} -> {', '.join(words)}"

    call.def_partition(partition, infer_sharding_from_operands=infer, sharding_rule=rule)
    return jax.jit(call)


def _forward(attention, names, q, k, v):
    """Return the map of results, and that of the logarithms of the sums of exponentials."""
    shape, dtype = q.shape[:-1], v.dtype
    q = _positions(q, attention.query_rows, names)
    shape_of_keys, k, v = k.shape, *(_positions(a, attention.key_rows, names) for a in (k, v))
    zeros = lambda size: jnp.zeros((*q.shape[:-1], size), wide(q.dtype, dtype))
    y, total, best = zeros(v.shape[-1]), zeros(1), zeros(1)
    if attention.weights == "softmax":
        best = best + jnp.finfo(best.dtype).min

    def work(step, k, v, _, sums):
        seen = _exist(shape_of_keys, attention.key_rows, names, step)
        add = functools.partial(_add, attention, k, v, seen)
        return _over_queries(add, (), (q, *sums), k.shape[1])

    _, (y, total, best) = _in_turn(names, work, (k, v), (), (y, total, best))
    if attention.weights == "softmax":
        y, total = y / total, best + jnp.log(total)
    return y.astype(dtype).reshape(*shape, -1), total.reshape(*shape, 1)


def _add(attention, k, v, seen, _, q, y, total, best):
    """Add what keys and values give to the sums for queries."""
    scores = attention.scores(q, k)
    if attention.weights == "softmax":
        scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        largest = jnp.maximum(best, scores.max(-1, keepdims=True))
        share, best = jnp.exp(best - largest), largest
        weights = jnp.where(seen, jnp.exp(scores - largest), 0)
        y, total = share * y, share * total + weights.sum(-1, keepdims=True)
    else:
        weights = jnp.where(seen, jax.nn.relu(scores) / attention.keys, 0)
    return (), (y + attention.product("nij,njc->nic", weights.astype(v.dtype), v), total, best)


def _backward(attention, names, q, k, v, y, logarithm, dy):
    """Return the gradients of queries, keys and values, as maps."""
    maps = q, k, v
    q, y, logarithm, dy = (
        _positions(a, attention.query_rows, names) for a in (q, y, logarithm, dy)
    )
    k, v = (_positions(a, attention.key_rows, names) for a in (k, v))
    mean = (y.astype(logarithm.dtype) * dy).sum(-1, keepdims=True)
    dq, dk, dv = (jnp.zeros(a.shape, wide(a.dtype)) for a in (q, k, v))

    def work(step, k, v, of_keys, of_queries):
        seen = _exist(maps[1].shape, attention.key_rows, names, step)
        add = functools.partial(_add_gradients, attention, k, v, seen)
        return _over_queries(add, of_keys, (q, dy, logarithm, mean, *of_queries), k.shape[1])

    of_keys, of_queries = _in_turn(names, work, (k, v), (dk, dv), (dq,))
    gradients = zip((*of_queries, *_sent_on(of_keys, names)), maps, strict=True)  # home
    return tuple(a.astype(x.dtype).reshape(x.shape) for a, x in gradients)


def _add_gradients(attention, k, v, seen, sums, q, dy, logarithm, mean, dq):
    scores, product = attention.scores(q, k), attention.product
    of_weights = product("nic,njc->nij", dy, v)
    if attention.weights == "softmax":
        weights = jnp.exp(scores - logarithm)
        of_scores = weights * (of_weights - mean)
    else:
        weights = jax.nn.relu(scores) / attention.keys
        of_scores = jnp.where(scores > 0, of_weights, 0) / attention.keys
    weights = jnp.where(seen, weights, 0).astype(dy.dtype)
    of_scores = jnp.where(seen, attention.scale * of_scores, 0).astype(q.dtype)
    dk = sums[0] + product("nij,nid->njd", of_scores, q)
    dv = sums[1] + product("nij,nic->njc", weights, dy)
    return (dk, dv), (dq + product("nij,njd->nid", of_scores, k),)


def _devices(names: Names | None) -> int:
    return 1 if names is None else lax.axis_size(names)


def _in_turn(names, work, pair, moving, staying):
    """Apply ``work`` to keys and values of each device in turn, and to what moves and stays.

    A loop, not its steps one by one, of which a compiler may send all keys before it uses any.
    """

    def turn(step, carried):
        pair, moving, staying = carried
        sent = _sent_on(pair, names)  # while they are used
        moving, staying = work(step, *pair, moving, staying)
        return sent, _sent_on(moving, names), staying

    last, carried = _devices(names) - 1, (pair, moving, staying)
    if last:
        carried = lax.fori_loop(0, last, turn, carried)
    pair, moving, staying = carried
    return work(last, *pair, moving, staying)


def _sent_on(arrays, names):
    devices = _devices(names)
    to_next = [(i, (i + 1) % devices) for i in range(devices)]
    return arrays if devices == 1 else lax.ppermute(arrays, names, to_next)


def _exist(shape, rows, names, step=0):
    """Return which positions of a part are of the map, not beyond its rows: ``[positions]``.

    The part is that of the device ``step`` places before.
    """
    index = 0 if names is None else (lax.axis_index(names) - step) % _devices(names)
    exist = index * shape[-3] + jnp.arange(shape[-3]) < rows
    return jnp.broadcast_to(exist[:, None], shape[1:-1]).reshape(-1)


def _positions(x, rows, names):
    """Return a part of a map as ``[N, positions, C]``, with zeros beyond the rows of the map."""
    exist = _exist(x.shape, rows, names)
    x = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])
    return jnp.where(exist[:, None], x, jnp.zeros((), x.dtype))


def _over_queries(work, carried, queries, keys):
    """Apply ``work`` to arrays ``[N, positions, C]``, some positions at a time.

    It returns what is carried on, and arrays of these positions.
    """
    positions = queries[0].shape[1]
    count = -(-positions // max(1, _SCORES // keys))
    if count <= 1:
        return work(carried, *queries)
    size = -(-positions // count)  # as even as can be, so that little is padded

    def parts(x):
        x = jnp.pad(x, [(0, 0), (0, count * size - positions), (0, 0)])
        return jnp.moveaxis(x.reshape(len(x), count, size, x.shape[-1]), 1, 0)

    def whole(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(len(x), count * size, x.shape[-1])[:, :positions]

    def step(carried, given):
        return work(carried, *given)

    carried, results = lax.scan(step, carried, jax.tree.map(parts, tuple(queries)))
    return carried, jax.tree.map(whole, results)
