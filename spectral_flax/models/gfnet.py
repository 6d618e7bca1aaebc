# SPDX-License-Identifier: Apache-2.0
"""Global filter networks: patches whose spectra are filtered, in place of attention."""

from collections.abc import Sequence
from typing import Unpack

import jax
from flax import nnx

from spectral_flax.arrays import as_floating, common
from spectral_flax.functional.fourier import Implementation
from spectral_flax.layers.conv import conv, linear
from spectral_flax.layers.initializers import normal
from spectral_flax.layers.numerics import Numerics, types_of
from spectral_flax.layers.spectral_filters import GlobalFilter
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add

EPSILON = 1e-6


class FilterBlock(nnx.Module):
    """``x + mlp(norm(filter(norm(x))))``: one residual around both, as published."""

    def __init__(
        self,
        features: int,
        size: Sequence[int],
        expansion: int,
        implementation: Implementation,
        **numerics: Unpack[Numerics],
    ):
        norms = dict(epsilon=EPSILON, rngs=numerics["rngs"], **types_of(numerics))
        self.norm1 = nnx.LayerNorm(features, **norms)
        self.filter = GlobalFilter(features, size, implementation=implementation, **numerics)
        self.norm2 = nnx.LayerNorm(features, **norms)
        self.linear1 = linear(features, expansion * features, **numerics)
        self.linear2 = linear(expansion * features, features, **numerics)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm2(self.filter(self.norm1(x)))
        return x + self.linear2(nnx.gelu(self.linear1(y), approximate=False))


class GFNet(nnx.Module):
    """Global filter network: ``[N, H, W, in_features] -> [N, num_classes]``.

    Args:
      input_size: H and W of the only images that it takes, multiples of ``patch``.
      patch: side of the patches.
      width: features of a patch.
      depth: blocks.
      expansion: hidden features of the blocks in terms of ``width``.
      num_classes: None leaves the head out: the result is the pooled features.
      in_features: channels of the input.
      implementation: of the Fourier transform: "fft", "matmul", or "auto" for the faster one.

    Raises:
      ValueError: the size is no multiple of the patches, or images have another.

    Rao et al., "Global Filter Networks for Image Classification", NeurIPS 2021.
    """

    def __init__(
        self,
        *,
        input_size: Sequence[int] = (224, 224),
        patch: int = 16,
        width: int = 256,
        depth: int = 12,
        expansion: int = 4,
        num_classes: int | None = 1000,
        in_features: int = 3,
        implementation: Implementation = "auto",
        **numerics: Unpack[Numerics],
    ):
        if any(side % patch or side < patch for side in input_size) or len(input_size) != 2:
            raise ValueError(f"input_size={tuple(input_size)}; expected multiples of patch={patch}")
        self.input_size = tuple(input_size)
        self.grid = tuple(side // patch for side in input_size)
        types, rngs = types_of(numerics), numerics["rngs"]
        self.patches = conv(
            in_features, width, patch, strides=patch, padding=0, use_bias=True, **numerics
        )
        shape = (*self.grid, width)
        self.positions = nnx.Param(normal(0.02)(rngs.params(), shape, types["param_dtype"]))
        options = (width, self.grid, expansion, implementation)
        self.blocks = nnx.List([FilterBlock(*options, **numerics) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs, **types)
        self.head = None if num_classes is None else linear(width, num_classes, **numerics)
        self.dtype = types["dtype"]

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the map of patches after each block, by name, and the normalised last one."""
        x = as_floating(x=x)
        if x.shape[1:3] != self.input_size:
            raise ValueError(f"x has shape {x.shape}; expected images of {self.input_size}")
        x = self.patches(x)
        positions = self.positions[...][None]
        x = x + positions.astype(self.dtype or common(x, positions))
        maps = {}
        for i, block in enumerate(self.blocks):
            maps[f"block{i}"] = x = block(x)
        return maps | {"norm": self.norm(x)}

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = self.features(x)["norm"].mean((1, 2))
        return pooled if self.head is None else self.head(pooled)


_PUBLISHED = {"gfnet_tiny": 74.6, "gfnet_xs": 78.6, "gfnet_small": 80.0, "gfnet_base": 80.7}

for _name, _size, _defaults in (
    ("gfnet_tiny", "tiny", {}),
    ("gfnet_xs", "extra small", dict(width=384)),
    ("gfnet_small", "small", dict(width=384, depth=19)),
    ("gfnet_base", "base", dict(width=512, depth=19)),
):
    add(
        Model(
            name=_name,
            function=GFNet,
            card=Card(
                paper="Rao et al., Global Filter Networks for Image Classification, NeurIPS 2021",
                code="raoyongming/GFNet",
                licence="MIT",
                published=f"ImageNet top-1 {_PUBLISHED[_name]}",
                interpolation="bicubic",
            ),
            title=f"Global filter network, {_size}: ``[N, H, W, 3] -> [N, num_classes]``.",
            family="gfnet",
            task="classification",
            defaults=_defaults,
        )
    )
