# SPDX-License-Identifier: Apache-2.0
"""Fourier neural operators: maps between functions on a grid, of any resolution."""

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.arrays import as_floating
from spectral_flax.functional.fourier import Implementation
from spectral_flax.layers.conv import conv, linear
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.spectral_filters import SpectralConvolution
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add


class FNO(nnx.Module):
    """Fourier neural operator: ``[N, H, W, in_features] -> [N, H, W, out_features]``, any H and W.

    The coordinates, from 0 to 1, are two channels more. Each layer adds a spectral convolution and
    a pointwise one; GELU follows all layers but the last.

    Args:
      modes: frequencies kept of rows (of both signs together) and of columns.
      width: features of the layers.
      depth: layers.
      hidden: features before the last linear layer.
      padding: rows and columns of zeros at the bottom and on the right, for functions that are not
        periodic.
      in_features: channels of the input.
      out_features: channels of the output.
      implementation: of the Fourier transform: "fft", "matmul", or "auto" for the faster one.

    Raises:
      ValueError: the map has fewer frequencies than are kept.

    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021.
    """

    def __init__(
        self,
        *,
        modes: Sequence[int] = (24, 12),
        width: int = 32,
        depth: int = 4,
        hidden: int = 128,
        padding: int = 9,
        in_features: int = 1,
        out_features: int = 1,
        implementation: Implementation = "auto",
        **numerics: Unpack[Numerics],
    ):
        if padding < 0:
            raise ValueError(f"padding={padding}; expected 0 or more")
        self.lift = linear(in_features + 2, width, **numerics)
        options = dict(implementation=implementation, **numerics)
        self.spectral = nnx.List(
            [SpectralConvolution(width, width, modes, **options) for _ in range(depth)]
        )
        self.pointwise = nnx.List(
            [conv(width, width, 1, use_bias=True, **numerics) for _ in range(depth)]
        )
        self.hidden = linear(width, hidden, **numerics)
        self.project = linear(hidden, out_features, **numerics)
        self.padding, self.in_features = padding, in_features

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the maps after each layer by name, with the padding."""
        x = as_floating(x=x)
        if x.ndim != 4 or x.shape[-1] != self.in_features:
            raise ValueError(f"x has shape {x.shape}; expected [N, H, W, {self.in_features}]")
        rows, columns = x.shape[1:3]
        axes = [jnp.linspace(0, 1, n, dtype=x.dtype) for n in (rows, columns)]
        grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1)
        x = jnp.concatenate([x, jnp.broadcast_to(grid, (len(x), rows, columns, 2))], -1)
        margin = (0, self.padding)
        x = jnp.pad(self.lift(x), ((0, 0), margin, margin, (0, 0)))
        maps = {}
        pairs = list(zip(self.spectral, self.pointwise, strict=True))
        for i, (spectral, pointwise) in enumerate(pairs, 1):
            x = spectral(x) + pointwise(x)
            maps[f"layer{i}"] = x = nnx.gelu(x, approximate=False) if i < len(pairs) else x
        return maps

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, columns = x.shape[1:3]
        last = list(self.features(x).values())[-1][:, :rows, :columns]
        return self.project(nnx.gelu(self.hidden(last), approximate=False))


add(
    Model(
        name="fno2d",
        function=FNO,
        card=Card(
            paper="Li et al., Fourier Neural Operator for Parametric Partial Differential "
            "Equations, ICLR 2021",
            code="neuraloperator/neuraloperator",
            licence="MIT",
            input_size=(64, 64),
            mean=(0.0,),
            std=(1.0,),
        ),
        title="Fourier neural operator: ``[N, H, W, in_features] -> [N, H, W, out_features]``.",
        family="fno",
    )
)
