# SPDX-License-Identifier: Apache-2.0
"""The formulas of the papers written out in JAX, to measure the library's blocks against.

`plain(module)` is a function of ``x`` that computes what ``module`` does, with its parameters, as
the published code does it: the full attention map of a non-local block, Kronecker products in
bilinear attention, energies concatenated and masked by a diagonal in criss-cross attention,
matrices multiplied out of reflections one by one, complex spectra.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.layers.attention import (
    DoubleAttention,
    GraphReasoning,
    RecurrentCrissCross,
)
from spectral_flax.layers.bilinear import BilinearAttention
from spectral_flax.layers.learned_pairs import HouseholderPair
from spectral_flax.layers.non_local import CompactNonLocal, NonLocal, _pooled
from spectral_flax.layers.spectral import SpectralResidual


def plain(module: nnx.Module):
    """Return the written-out form of a block, a function of the map ``x``."""
    form = FORMS[type(module)]
    return lambda x: form(module, x)


def _flat(x):
    return x.reshape(x.shape[0], -1, x.shape[-1])


def non_local(block: NonLocal, x):
    keys = _pooled(x) if block.sub_sample else x
    q, k, v = _flat(block.query(x)), _flat(block.key(keys)), _flat(block.value(keys))
    scores = jnp.einsum("nid,njd->nij", q, k) * block.scale
    y = jnp.einsum("nij,njc->nic", jax.nn.softmax(scores, -1), v)
    return x + block.norm(block.expand(y.reshape(*x.shape[:-1], -1)))


def double_attention(block: DoubleAttention, x):
    a, b, v = (_flat(f(x)) for f in (block.feature, block.gather, block.distribution))
    descriptors = jnp.einsum("nlk,nlc->nck", jax.nn.softmax(b, 1), a)
    axis = 2 if block.distribute == "channels" else 1
    y = jnp.einsum("nck,nlk->nlc", descriptors, jax.nn.softmax(v, axis))
    return x + block.norm(block.expand(y.reshape(*x.shape[:-1], -1)))


def compact(block: CompactNonLocal, x):
    t, p, g = (_flat(f(x)) for f in (block.query, block.key, block.value))
    parts = []
    for group in zip(*(jnp.split(a, block.groups, -1) for a in (t, p, g)), strict=True):
        vectors = [a.reshape(len(a), -1) for a in group]
        if block.gamma is None:
            theta, phi = vectors[0][:, None, :], vectors[1][:, None, :]
        else:
            beta = jnp.exp(-2.0 * block.gamma)
            terms, factor = [], 1.0
            for k in range(block.order + 1):
                factor = factor * (2 * block.gamma / k) if k else 1.0
                terms.append(jnp.sqrt(beta * factor))
            theta = jnp.stack([c * vectors[0] ** k for k, c in enumerate(terms)], 1)
            phi = jnp.stack([c * vectors[1] ** k for k, c in enumerate(terms)], 1)
        context = jnp.einsum("nkl,nl->nk", phi, vectors[2])
        parts.append(jnp.einsum("nk,nkl->nl", context, theta).reshape(group[0].shape))
    y = jnp.concatenate(parts, -1).reshape(*x.shape[:-1], -1)
    return x + block.norm(block.expand(y))


def criss_cross(block: RecurrentCrissCross, x):
    y = block.reduce(x)
    attention = block.attention
    height, width = x.shape[-3:-1]
    diagonal = jnp.diag(jnp.full(height, jnp.inf))[:, None, :]
    for _ in range(block.recurrences):
        q, k, v = attention.query(y), attention.key(y), attention.value(y)
        column = jnp.einsum("...hwd,...gwd->...hwg", q, k)
        column = column - jnp.broadcast_to(diagonal, (height, width, height))
        row = jnp.einsum("...hwd,...hvd->...hwv", q, k)
        weights = jax.nn.softmax(jnp.concatenate([column, row], -1), -1)
        out = jnp.einsum("...hwg,...gwc->...hwc", weights[..., :height], v)
        out = out + jnp.einsum("...hwv,...hvc->...hwc", weights[..., height:], v)
        y = y + attention.gamma[...] * out
    return x + block.expand(y)


def graph_reasoning(block: GraphReasoning, x):
    states, projection = _flat(block.state(x)), _flat(block.projection(x))
    nodes = jnp.einsum("nls,nlk->nsk", states, projection)
    nodes = nodes / (states.shape[1] if block.normalize else 1)
    nodes = nnx.relu(nodes + nodes @ block.mix_nodes.kernel[0] + block.mix_nodes.bias[...])
    nodes = jnp.einsum("nsk,st->ntk", nodes, block.mix_states.kernel[0])
    y = jnp.einsum("nsk,nlk->nls", nodes, projection)
    return x + block.norm(block.expand(y.reshape(*x.shape[:-1], -1)))


def spectral(block: SpectralResidual, x):
    size = x.shape[-3:-1]
    if isinstance(block.pair, HouseholderPair):
        p, q = (
            _multiplied_out(r[...])
            for r in (block.pair.row_reflectors, block.pair.column_reflectors)
        )
        y = block.phi(jnp.einsum("ij,...jkc,kl->...ilc", p, x, q))
        y = jnp.einsum("ji,...jkc,lk->...ilc", p, y, q)
    else:
        shape = (*x.shape[:-1], block.groups, -1)
        z = jnp.fft.rfft2(x.reshape(shape), axes=(-4, -3), norm=block.pair.norm)
        s = jnp.concatenate([z.real, z.imag], -1)
        s = block.phi(s.reshape(*s.shape[:-2], -1))
        real, imag = jnp.split(s.reshape(*s.shape[:-1], block.groups, -1), 2, -1)
        y = jnp.fft.irfft2(real + 1j * imag, size, axes=(-4, -3), norm=block.pair.norm)
        y = y.reshape(x.shape)
    return x + (y if block.gate is None else block.gate[...] * y)


def _multiplied_out(reflectors):
    matrix = jnp.eye(len(reflectors))
    for v in reflectors.T:
        length = jnp.maximum(v @ v, 1e-30)  # a zero vector reflects nothing
        matrix = matrix - jnp.outer(matrix @ v, 2 * v / length)
    return matrix


def bilinear_attention(block: BilinearAttention, x):
    transform = block.transform
    y = block.reduce(x)
    p, q, t = transform.matrices(y)
    p = kronecker(p, y.shape[-3])
    q = kronecker(q, y.shape[-2])
    channels = y.shape[-1] // p.shape[-3]
    p, q = (jnp.repeat(m, channels, -3) for m in (p, q))  # a matrix for each channel
    z = jnp.moveaxis(y, -1, -3)
    z = jnp.moveaxis(p @ z @ q, -3, -1)
    if t is not None:
        t = jnp.repeat(kronecker(t, y.shape[1]), y.shape[-1] // t.shape[-3], -3)
        z = jnp.einsum("nctu,nuhwc->nthwc", t, z)
    return x + block.dropout(block.expand(transform.expand(z)))


def kronecker(matrices, size):
    repeats = size // matrices.shape[-1]
    full = matrices[..., :, None, :, None] * jnp.eye(repeats)[:, None, :]
    return full.reshape(*matrices.shape[:-2], size, size)


FORMS = {
    NonLocal: non_local,
    DoubleAttention: double_attention,
    CompactNonLocal: compact,
    RecurrentCrissCross: criss_cross,
    GraphReasoning: graph_reasoning,
    SpectralResidual: spectral,
    BilinearAttention: bilinear_attention,
}
