# SPDX-License-Identifier: Apache-2.0
"""Transform pairs with learned orthogonal matrices."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.functional import orthogonal, pairs


class _LearnedPair(nnx.Module):
    """A parameter for each axis, from which a call computes an orthogonal matrix.

    ``sizes`` are H and W (T, H, W for video).
    """

    kind: str
    """What the parameters are; the end of their names."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        self.sizes = tuple(sizes)
        self.precision = precision
        self.multiplier = 1
        for name, size in zip(self._names(), sizes, strict=True):
            setattr(self, name, nnx.Param(self._draw(rngs.params(), size, param_dtype)))

    def __call__(self) -> pairs.Orthogonal:
        parameters = (getattr(self, name)[...] for name in self._names())
        return pairs.Orthogonal(tuple(map(self._matrix, parameters)), self.precision)

    def _names(self):
        axes = ("frame", "row", "column")[-len(self.sizes) :]
        return [f"{axis}_{self.kind}" for axis in axes]


class HouseholderPair(_LearnedPair):
    """Learned orthogonal matrices for each axis, as products of reflections.

    Called, it returns the `functional.pairs.Orthogonal` of its parameters, which are orthogonal
    at any value, so that any optimiser may move them. ``sizes`` are H and W (T, H, W for video).
    """

    kind = "reflectors"
    _draw = staticmethod(orthogonal.random_reflectors)
    _matrix = staticmethod(orthogonal.orthogonal_matrix)


@jax.custom_jvp
def _retracted(matrix: jax.Array) -> jax.Array:
    return orthogonal.qr_retraction(matrix).astype(matrix.dtype)


@_retracted.defjvp
def _(primals, tangents):
    # The published code replaces the stored values outside the graph: no gradient of the QR.
    return _retracted(*primals), tangents[0]


class RetractedPair(_LearnedPair):
    """Learned orthogonal matrices for each axis, made orthogonal again by QR in every call.

    As published: the transform uses the QR factor of each stored matrix, while the stored matrix
    receives the gradient as if it had been used itself. Called, it returns the
    `functional.pairs.Orthogonal` of the factors. The published code also overwrites the stored
    matrices; `retract` does so, to be called between steps of the optimiser. ``sizes`` are H and W
    (T, H, W for video).
    """

    kind = "matrix"
    _draw = staticmethod(orthogonal.random_orthogonal)
    _matrix = staticmethod(_retracted)

    def retract(self) -> None:
        """Replace the stored matrices by their QR factors."""
        for name in self._names():
            stored = getattr(self, name)
            stored[...] = orthogonal.qr_retraction(stored[...]).astype(stored[...].dtype)
