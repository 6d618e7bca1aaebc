# SPDX-License-Identifier: Apache-2.0
"""Activations: with parameters, or picklable with the layer that holds them."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from spectral_flax.arrays import as_floating


def relu(x: jax.Array) -> jax.Array:
    """Return max(0, x): ``nnx.relu``, which cannot be pickled with a layer that holds it."""
    return nnx.relu(x)


def silu(x: jax.Array) -> jax.Array:
    """Return ``x * sigmoid(x)``, which can be pickled as `relu`."""
    return nnx.silu(x)


@dataclasses.dataclass(frozen=True)
class LeakyReLU:
    """The function max(x, slope * x)."""

    slope: float

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.leaky_relu(x, self.slope)


class SpectrumReLU(nnx.Module):
    """Rectify with a scale and a threshold per frequency: ``max(0, scale * s + bias)``.

    ``[..., *grid, C] -> [..., *grid, C]``; scale and bias ``[*grid]`` are shared by all channels.
    Chi et al., spectral residual learning, spectrum ReLU.
    """

    def __init__(
        self,
        grid: tuple[int, ...],
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.scale = nnx.Param(jnp.ones(grid, param_dtype))
        self.bias = nnx.Param(jnp.zeros(grid, param_dtype))
        self.dtype = dtype

    def __call__(self, s: jax.Array) -> jax.Array:
        s, scale, bias = as_floating(s=s), self.scale[...], self.bias[...]
        if s.shape[-scale.ndim - 1 : -1] != scale.shape:
            raise ValueError(
                f"the spectrum has {s.shape[-scale.ndim - 1 : -1]} frequencies; this SpectrumReLU "
                f"was built for {scale.shape}"
            )
        dtype = self.dtype or s.dtype
        shape = (1,) * (s.ndim - scale.ndim - 1) + scale.shape + (1,)
        s = s.astype(dtype)
        return nnx.relu(scale.reshape(shape).astype(dtype) * s + bias.reshape(shape).astype(dtype))
