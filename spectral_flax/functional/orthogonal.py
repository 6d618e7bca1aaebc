# SPDX-License-Identifier: Apache-2.0
"""Orthogonal matrices: products of Householder reflections, QR factors, random draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from spectral_flax.arrays import as_floating, common, wide

# A vector whose largest entry is below this is taken as zero: the gradient with respect to a
# reflector grows as one over its length, and would no longer be finite.
_ZERO = 1e-30
_HIGHEST = lax.Precision.HIGHEST


def orthogonal_matrix(reflectors: jax.Array) -> jax.Array:
    """Multiply Householder reflections: ``[..., n, k] -> [..., n, n]``.

    The result is ``H_1 H_2 ... H_k`` with ``H_i = I - 2 v v^T / (v^T v)`` and v the i-th column.
    It is orthogonal for any columns; a zero column means the identity and gets a zero
    gradient. n columns reach every orthogonal matrix, of either determinant. Computed in float32,
    or float64 for float64 columns, with every entry of ``P^T P - I`` below 1e-6 for n up to 128.

    Compact WY form: Joffrain et al., "Accumulating Householder transformations, revisited",
    ACM TOMS 2006.
    """
    u, w = _compact(as_floating(reflectors=reflectors))
    product = jnp.matmul(u, w, precision=_HIGHEST)
    matrix = _identity_like(product) - product
    # One Newton step towards the nearest orthogonal matrix removes the rounding of the triangular
    # solve (1.4e-6 at n = 128 without it). It is not part of the function, so it has no gradient.
    return matrix + lax.stop_gradient(_newton(matrix) - matrix)


def apply_reflectors(
    reflectors: jax.Array, x: jax.Array, *, axis: int = -1, transpose: bool = False
) -> jax.Array:
    """Multiply an axis of ``x`` by `orthogonal_matrix` without forming it.

    ``[n, k], [..., n, ...] -> [..., n, ...]``, in the dtype of ``x``, computed in float32 at least.
    For k well below n; with ``transpose`` by the inverse matrix.

    Raises:
      ValueError: the axis has another length than the reflectors.
    """
    reflectors, x = as_floating(reflectors=reflectors, x=x)
    if x.shape[axis] != reflectors.shape[-2]:
        raise ValueError(
            f"axis {axis} of x has length {x.shape[axis]}; expected the reflectors' "
            f"{reflectors.shape[-2]}"
        )
    u, w = _compact(reflectors)
    left, right = (u, w) if transpose else (w.T, u.T)
    y = jnp.moveaxis(x, axis, -1).astype(common(x, u))
    product = jnp.matmul(jnp.matmul(y, left, precision=_HIGHEST), right, precision=_HIGHEST)
    return jnp.moveaxis(y - product, -1, axis).astype(x.dtype)


def matrix_to_reflectors(matrix: ArrayLike) -> np.ndarray:
    """Factor an orthogonal matrix into reflectors: ``[n, n] -> [n, n]``.

    The inverse of `orthogonal_matrix`, exact to rounding, signs and determinant included: the last
    reflector has one entry, which is zero or turns the last sign. For any other regular matrix the
    result represents its orthogonal QR factor with ``diag(R) > 0``. Computed on the host in
    float64 (weights are converted once), returned in float64.

    Raises:
      TypeError: the matrix is not one of real numbers.
      ValueError: it is not square or not finite.

    Golub and Van Loan, "Matrix Computations", algorithm 5.1.1.
    """
    rest = np.asarray(matrix)
    if np.iscomplexobj(rest) or not (jnp.issubdtype(rest.dtype, jnp.number) or rest.dtype == bool):
        raise TypeError(f"matrix has dtype {rest.dtype}; expected real numbers")
    rest = np.array(rest, np.float64)
    if rest.ndim != 2 or rest.shape[0] != rest.shape[1]:
        raise ValueError(f"matrix has shape {rest.shape}; expected a square matrix")
    if not np.isfinite(rest).all():
        raise ValueError("matrix has entries that are not finite")
    reflectors = np.zeros_like(rest)
    for i in range(len(rest)):
        v = rest[i:, i].copy()
        tail = np.square(v[1:]).sum()
        length = np.sqrt(v[0] ** 2 + tail)
        # The first entry is v_0 - |v|, in a form that does not cancel.
        v[0] = -tail / (v[0] + length) if v[0] > 0 else v[0] - length
        norm = np.linalg.norm(v)
        if norm > 0:
            v /= norm
            rest[i:, i:] -= 2 * np.outer(v, v @ rest[i:, i:])
        reflectors[i:, i] = v
    return reflectors


def qr_retraction(matrix: jax.Array) -> jax.Array:
    """Return the Q of the QR factorisation with ``diag(R) > 0``: ``[..., n, n] -> [..., n, n]``.

    Continuous at regular matrices and the identity on orthogonal ones, which a QR with the signs
    that an implementation happens to choose is not. Computed in float32 at least, entries of
    ``Q^T Q - I`` below 1e-6 for n up to 128.
    """
    matrix = as_floating(matrix=matrix)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix has shape {matrix.shape}; expected square matrices")
    q, r = jnp.linalg.qr(matrix.astype(wide(matrix.dtype)))
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    q = q * jnp.where(diagonal < 0, -1, 1).astype(q.dtype)[..., None, :]
    return q + lax.stop_gradient(_newton(q) - q)


@functools.partial(jax.jit, static_argnums=(1, 2), static_argnames=("n", "dtype"))
def random_reflectors(key: jax.Array, n: int, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draw reflectors ``[n, n]`` whose matrix is uniformly (Haar) distributed over O(n).

    They are those of the QR factorisation of a Gaussian matrix: at each step of it the remaining
    column is Gaussian, so all can be drawn at once.
    Stewart, "The efficient generation of random orthogonal matrices", SIAM J. Numer. Anal. 1980.
    """
    x = jnp.tril(jax.random.normal(key, (n, n), wide(dtype)))
    head = jnp.diagonal(x)
    tail = jnp.sum(jnp.square(jnp.tril(x, -1)), axis=0)
    length = jnp.sqrt(jnp.square(head) + tail)
    stable = -tail / jnp.where(head > 0, head + length, 1)
    first = jnp.where(head > 0, stable, head - length)
    return (x + jnp.diag(first - head)).astype(dtype)


@functools.partial(jax.jit, static_argnums=(1, 2), static_argnames=("n", "dtype"))
def random_orthogonal(key: jax.Array, n: int, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draw an orthogonal matrix ``[n, n]`` from the uniform (Haar) distribution on O(n)."""
    return orthogonal_matrix(random_reflectors(key, n, wide(dtype))).astype(dtype)


def _compact(reflectors):
    """Return u and w with ``H_1 ... H_k = I - u w``: ``[..., n, k], [..., k, n]``."""
    if reflectors.ndim < 2:
        raise ValueError(f"reflectors have shape {reflectors.shape}; expected [..., n, k]")
    v = reflectors.astype(wide(reflectors.dtype))
    # Scaled by the largest entry first, so that squares neither overflow nor vanish.
    scale = lax.stop_gradient(jnp.max(jnp.abs(v), axis=-2, keepdims=True))
    zero = scale < _ZERO
    v = jnp.where(zero, 0, v / jnp.where(zero, 1, scale))
    squares = jnp.sum(jnp.square(v), axis=-2, keepdims=True)
    u = v * lax.rsqrt(jnp.where(zero, 1, squares))
    gram = jnp.matmul(jnp.swapaxes(u, -1, -2), u, precision=_HIGHEST)
    triangle = jnp.triu(gram, 1) + 0.5 * _identity_like(gram)
    return u, lax.linalg.triangular_solve(
        triangle, jnp.swapaxes(u, -1, -2), left_side=True, lower=False
    )


def _newton(q):
    """One Newton-Schulz step: the error of orthogonality is squared, down to rounding."""
    gram = jnp.matmul(jnp.swapaxes(q, -1, -2), q, precision=_HIGHEST)
    return q - 0.5 * jnp.matmul(q, gram - _identity_like(gram), precision=_HIGHEST)


def _identity_like(matrix):
    return jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
