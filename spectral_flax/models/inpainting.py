# SPDX-License-Identifier: Apache-2.0
"""LaMa: inpainting of large holes with fast Fourier convolutions.

Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions", WACV 2022.
"""

import functools
import itertools
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.arrays import as_floating
from spectral_flax.functional.fourier import Implementation
from spectral_flax.layers.activations import LeakyReLU
from spectral_flax.layers.checks import as_channels_last
from spectral_flax.layers.conv import conv
from spectral_flax.layers.ffc import FFC
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.layers.transposed import TransposedConvNormAct
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add

_ACTIVATIONS = {"sigmoid": nnx.sigmoid, "tanh": jnp.tanh, None: lambda x: x}


def masked_input(image: jax.Array, mask: jax.Array) -> jax.Array:
    """Return what a generator gets: ``[N, H, W, 3], [N, H, W, 1] -> [N, H, W, 4]``.

    The image times ``1 - mask``, then the mask, which is 1 where the image is missing.
    """
    return jnp.concatenate([image * (1 - mask), mask], axis=-1)


class ResidualFFC(nnx.Module):
    """Two FFCs, normalised and rectified, beside the identity: ``[N, H, W, C]`` to the same."""

    def __init__(self, features: int, **options: Any):
        self.conv1 = ConvNormAct(features, features, 3, **options)
        self.conv2 = ConvNormAct(features, features, 3, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv2(self.conv1(x))


class Lama(Rematerialisable):
    """Generator of LaMa: ``[N, H, W, in_features] -> [N, H, W, out_features]``.

    H and W are multiples of ``2**downsampling``.
    A 7x7 convolution, ``downsampling`` halvings, residual blocks of FFCs, as many doublings, a 7x7
    convolution. The input is `masked_input` of an image in [0, 1]. Convolutions pad by reflection.

    Args:
      blocks: residual blocks.
      downsampling: halvings of the map.
      ratio: share of the global path in the residual blocks.
      lfu: local Fourier units; no published generator has them.
      width: features of the first convolution; each halving doubles them, up to ``max_features``.
      max_features: the most that halvings double them to.
      in_features: channels of the input.
      out_features: channels of the result.
      output_activation: "sigmoid" (all published weights), "tanh" or None.
      implementation: of the Fourier transforms.

    Raises:
      ValueError: an option is out of range, or H or W is not a multiple of ``2**downsampling``.
    """

    def __init__(
        self,
        *,
        blocks: int = 9,
        downsampling: int = 3,
        ratio: float = 0.75,
        lfu: bool = False,
        width: int = 64,
        max_features: int = 1024,
        in_features: int = 4,
        out_features: int = 3,
        output_activation: str | None = "sigmoid",
        implementation: Implementation = "auto",
        **numerics: Unpack[Numerics],
    ):
        if output_activation not in _ACTIVATIONS:
            raise ValueError(
                f"output_activation={output_activation!r}; expected 'sigmoid', 'tanh' or None"
            )
        for name, value, least in (("blocks", blocks, 0), ("downsampling", downsampling, 1)):
            if value < least:
                raise ValueError(f"{name}={value}; expected at least {least}")
        plain = functools.partial(FFC, ratio_in=0, ratio_out=0, padding_mode="reflect")

        def spectral(ratio_in):
            return functools.partial(
                FFC,
                ratio_in=ratio_in,
                ratio_out=ratio,
                lfu=lfu,
                padding_mode="reflect",
                implementation=implementation,
            )

        widths = [min(width * 2**i, max_features) for i in range(downsampling + 1)]
        self.stem = ConvNormAct(in_features, width, 7, layer=plain, **numerics)
        layers = [plain] * (downsampling - 1) + [spectral(0)]
        self.down = nnx.List(
            ConvNormAct(i, o, 3, strides=2, layer=layer, **numerics)
            for i, o, layer in zip(widths, widths[1:], layers, strict=False)
        )
        residual = functools.partial(ResidualFFC, widths[-1], layer=spectral(ratio), **numerics)
        self.blocks = nnx.List(residual() for _ in range(blocks))
        back = widths[::-1]
        placed = dict(padding=1, output_padding=1, use_bias=True)
        self.up = nnx.List(
            TransposedConvNormAct(i, o, 3, **placed, **numerics)
            for i, o in itertools.pairwise(back)
        )
        self.head = plain(width, out_features, 7, use_bias=True, **numerics)
        self.in_features = in_features
        self.output_activation = output_activation

    def _before(self, x: jax.Array) -> dict[str, jax.Array]:
        x = as_floating(x=x)
        unit = 2 ** len(self.down)
        if (
            x.ndim != 4
            or x.shape[-1] != self.in_features
            or any(size < 1 or size % unit for size in x.shape[1:3])
        ):
            raise ValueError(
                f"x has shape {x.shape}; expected [N, H, W, {self.in_features}] with H and W "
                f"multiples of {unit} (sf.inpaint takes any size)"
            )
        x = self.stem(x)
        maps = {"stem": x}
        for i, down in enumerate(self.down, start=1):
            x = down(x)
            maps[f"down{i}"] = x
        return maps

    def _after(self, x: jax.Array) -> dict[str, jax.Array]:
        for block in self.blocks:
            x = self._run(block, x)
        maps = {"blocks": x}
        for i, up in enumerate(self.up, start=1):
            x = up(x)
            maps[f"up{i}"] = x
        return maps

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the feature maps by name: ``stem``, ``down1`` …, ``blocks``, ``up1`` … ."""
        before = self._before(x)
        return before | self._after(before[f"down{len(self.down)}"])

    def encode(self, x: jax.Array) -> jax.Array:
        """Return the map that the residual blocks get."""
        return self._before(x)[f"down{len(self.down)}"]

    def decode(self, x: jax.Array) -> jax.Array:
        """Return the result from the map that the residual blocks get."""
        x = self._after(x)[f"up{len(self.up)}"]
        return _ACTIVATIONS[self.output_activation](self.head(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.decode(self.encode(x))


class PatchDiscriminator(nnx.Module):
    """PatchGAN discriminator: ``[N, H, W, in_features] -> [N, H', W', 1]``, a logit per patch.

    4x4 convolutions, the first ``layers`` of stride 2, with leaky ReLU and, but for the first and
    the last, batch normalisation. Isola et al., CVPR 2017; Wang et al., pix2pixHD, CVPR 2018.
    """

    def __init__(
        self,
        *,
        in_features: int = 3,
        width: int = 64,
        layers: int = 4,
        max_features: int = 512,
        **numerics: Unpack[Numerics],
    ):
        if layers < 1:
            raise ValueError(f"layers={layers}; expected at least 1")
        window = dict(padding=2, use_bias=True)
        leaky = LeakyReLU(0.2)
        widths = [min(width * 2**i, max_features) for i in range(layers + 1)]
        strides = [2] * (layers - 1) + [1]
        self.first = conv(in_features, width, 4, strides=2, **window, **numerics)
        self.blocks = nnx.List(
            ConvNormAct(i, o, 4, strides=s, activation=leaky, **window, **numerics)
            for i, o, s in zip(widths, widths[1:], strides, strict=False)
        )
        self.last = conv(widths[-1], 1, 4, **window, **numerics)

    def features(self, x: jax.Array) -> list[jax.Array]:
        """Return the map of each layer, the logits last."""
        x = as_channels_last(x, self.first.in_features)
        maps = [nnx.leaky_relu(self.first(x), negative_slope=0.2)]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return [*maps, self.last(maps[-1])]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.features(x)[-1]


_CARD = Card(
    paper="Suvorov et al., Resolution-robust Large Mask Inpainting with Fourier Convolutions, "
    "WACV 2022",
    code="advimman/lama",
    licence="Apache-2.0",
    input_size=(256, 256),
    resize=256,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    note="Input: image · (1 - mask) and mask, 4 channels. Published weights were trained with "
    "cuFFT's inverse of non-Hermitian spectra, which differs slightly from the one used here.",
)

for _name, _title, _defaults in (
    ("lama", "LaMa-Fourier", {}),
    ("lama_big", "Big LaMa, of 18 residual blocks", dict(blocks=18)),
):
    add(
        Model(
            name=_name,
            function=Lama,
            card=_CARD,
            title=f"{_title}: ``[N, H, W, 4] -> [N, H, W, 3]``.",
            family="lama",
            task="inpainting",
            ffc=True,
            defaults=_defaults,
        )
    )
