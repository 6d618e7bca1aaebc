# SPDX-License-Identifier: Apache-2.0
"""U-Net and the U-Net* of the spectral residual work, with any block at any up-sampling stage.

Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, in today's form: padded convolutions, batch
normalisation. U-Net* lacks the last pooling.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.arrays import as_floating
from spectral_flax.functional.pooling import max_pool
from spectral_flax.layers.blocks import BLOCKS, Builder, blocks_of_rank
from spectral_flax.layers.conv import conv
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable
from spectral_flax.layers.transposed import transposed_conv
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add

_POOLINGS = 4


class DoubleConv(nnx.Module):
    """Two 3x3 convolutions with normalisation and ReLU: ``[N, H, W, I] -> [N, H, W, O]``."""

    def __init__(self, in_features: int, out_features: int, **numerics: Unpack[Numerics]):
        self.conv1 = ConvNormAct(in_features, out_features, 3, **numerics)
        self.conv2 = ConvNormAct(out_features, out_features, 3, **numerics)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv2(self.conv1(x))


class UpStage(nnx.Module):
    """Halve the features, double the map, join it with the encoder's: ``[N, h, w, 2O] -> O``.

    Doubling is a transposed 2x2 convolution of stride 2, each result of one position. At stride 1
    (``double=False``) that is a pointwise convolution. A map that came out smaller than the
    encoder's, of odd size, is padded with zeros.
    """

    def __init__(self, out_features: int, *, double: bool, **numerics: Unpack[Numerics]):
        features = 2 * out_features, out_features
        self.up = (
            transposed_conv(*features, 2, use_bias=True, **numerics)
            if double
            else conv(*features, use_bias=True, **numerics)
        )
        self.convs = DoubleConv(*features, **numerics)

    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        x = self.up(x)
        rest = [a - b for a, b in zip(skip.shape[1:3], x.shape[1:3], strict=True)]
        if any(rest):
            x = jnp.pad(x, [(0, 0), *((r // 2, r - r // 2) for r in rest), (0, 0)])
        return self.convs(jnp.concatenate([skip, x], axis=-1))


class UNet(Rematerialisable):
    """Logits of each pixel: ``[N, H, W, in_features] -> [N, H, W, num_classes]``, any H, W ≥ 16.

    Five levels of two convolutions, of ``width`` to 16 ``width`` features, and four up-sampling
    stages, up4 (behind the deepest level) to up1.

    Args:
      last_pooling: whether the deepest level halves the map. U-Net* (False) has it as large as
        that above it, so that up4 joins without doubling; H, W ≥ 8 then.
      block: ``block(features, size=…)`` builds a module that keeps the shape.
      blocks_at: where blocks are, each "b/upN" (before stage N) or "a/upN" (after it).
      input_size: H, W of the images that blocks of fixed map size are built for.
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        in_features: int = 3,
        width: int = 64,
        last_pooling: bool = True,
        block: Callable[..., nnx.Module] | None = None,
        blocks_at: Sequence[str] = (),
        input_size: Sequence[int] = (256, 256),
        **numerics: Unpack[Numerics],
    ):
        for name, value in (("num_classes", num_classes), ("width", width)):
            if value < 1:
                raise ValueError(f"{name}={value}; expected at least 1")
        if blocks_at and block is None:
            raise ValueError(f"blocks_at={tuple(blocks_at)} but no block was given")
        widths = [width * 2**level for level in range(_POOLINGS + 1)]
        self.pooled = (True,) * (_POOLINGS - 1) + (last_pooling,)
        self.in_features = in_features
        self.encoder = nnx.List(
            DoubleConv(i, o, **numerics)
            for i, o in zip([in_features, *widths], widths, strict=False)
        )
        self.decoder = nnx.List(  # deepest first
            UpStage(widths[level], double=self.pooled[level], **numerics)
            for level in reversed(range(_POOLINGS))
        )
        self.head = conv(width, num_classes, use_bias=True, **numerics)
        sizes = self.map_sizes(input_size) if blocks_at else []
        self.blocks = nnx.Dict()
        for place in blocks_at:
            side, stage = _parse(place)
            level = stage if side == "b" else stage - 1
            made = block(widths[level], rank=2, size=sizes[level], **numerics)
            self.blocks[f"{side}_up{stage}"] = made

    def map_sizes(self, input_size: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the size H, W of each level's map.

        Raises:
          ValueError: nothing is left of the input at the deepest level.
        """
        sizes = [tuple(input_size)]
        for pooled in self.pooled:
            sizes.append(tuple(n // 2 for n in sizes[-1]) if pooled else sizes[-1])
        if len(sizes[0]) != 2 or min(sizes[-1]) < 1:
            least = 2 ** sum(self.pooled)
            raise ValueError(f"the input has size {sizes[0]}; expected H, W of {least} at least")
        return sizes

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the maps by name: ``level0`` to ``level4`` and ``up4`` to ``up1``."""
        x = as_floating(x=x)
        if x.ndim != 4 or x.shape[-1] != self.in_features:
            raise ValueError(f"x has shape {x.shape}; expected [N, H, W, {self.in_features}]")
        self.map_sizes(x.shape[1:3])
        maps = {}
        for level, convs in enumerate(self.encoder):
            if level and self.pooled[level - 1]:
                x = max_pool(x, (2, 2), (2, 2))
            x = maps[f"level{level}"] = self._run(convs, x)
        for i, stage in enumerate(self.decoder):
            number = _POOLINGS - i
            x = self._block(f"b_up{number}", x)
            x = self._run(stage, x, maps[f"level{number - 1}"])
            x = maps[f"up{number}"] = self._block(f"a_up{number}", x)
        return maps

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x)["up1"])

    def _block(self, place: str, x: jax.Array) -> jax.Array:
        return self._run(self.blocks[place], x) if place in self.blocks else x


def unet(
    *,
    star: bool = False,
    block: str | Builder | None = None,
    blocks_at: Sequence[str] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (256, 256),
    num_classes: int = 2,
    in_features: int = 3,
    width: int = 64,
    **numerics: Unpack[Numerics],
) -> UNet:
    """Build a U-Net: ``[N, H, W, in_features] -> [N, H, W, num_classes]``.

    Args:
      star: without the last pooling.
      block: the name of a block of `layers.blocks.BLOCKS`, a function of one's own as in
        `layers.register_block`, or None.
      blocks_at: where one is, of "b/up4" (before the up-sampling stage behind the deepest level)
        to "a/up1"; None: ("b/up4",), the best place in the published comparison.
      block_options: options of the block; None: the published ones.
      input_size: H, W of the images that blocks of fixed map size are built for.
      num_classes: of each pixel.
      in_features: channels of the input.
      width: features of the first level; each level doubles it.
    """
    inserted = inserted_blocks(block, {}, block_options, (3, 4, 6, 3), True, rank=2)
    if blocks_at is None:
        blocks_at = () if block is None else ("b/up4",)
    return UNet(
        num_classes=num_classes,
        in_features=in_features,
        width=width,
        last_pooling=not star,
        block=inserted.get("block"),
        blocks_at=blocks_at,
        input_size=input_size,
        **numerics,
    )


def _parse(place: str) -> tuple[str, int]:
    match = re.fullmatch(rf"([ab])/up([1-{_POOLINGS}])", place)
    if not match:
        raise ValueError(f"blocks_at names {place!r}; expected a/up1 to a/up4 or b/up1 to b/up4")
    return match[1], int(match[2])


_PAPER = "Ronneberger, Fischer and Brox, U-Net, MICCAI 2015"
_STAR = {
    None: "skin lesions: mean accuracy 90.60, accuracy 93.79, mean IoU 83.10, weighted IoU 88.65",
    "srl_fft": "skin lesions: 92.38, 95.61, 87.42, 91.70",
    "nl": "skin lesions: 91.92, 95.33, 86.69, 91.22",
    "a2": "skin lesions: 91.36, 95.09, 86.03, 90.78",
}
_UNKNOWN = (
    "Data set, recipe and what replaces the doubling at up4 are not published; "
    "here it is a pointwise convolution."
)


def _model(star: bool, block: str | None) -> Model:
    name = ("unet_star" if star else "unet") + (f"_{block}" if block else "")
    title = ("U-Net*, without the last pooling" if star else "U-Net") + (
        f", with {BLOCKS[block].title}" if block else ""
    )
    card = Card(
        paper=BLOCKS[block].paper if block else _PAPER,
        code="" if star or block else "milesial/Pytorch-UNet",
        licence="" if star or block else "GPL-3.0 (the published code and weights)",
        input_size=(256, 256),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        published=_STAR.get(block, "") if star else "",
        note=_UNKNOWN if star else "",
    )
    fixed = dict(star=star) | (dict(block=block) if block else {})
    return Model(
        name=name,
        function=unet,
        card=card,
        title=f"{title}: ``[N, H, W, I] -> [N, H, W, num_classes]``.",
        family="unet",
        task="segmentation",
        block=block,
        fixed=fixed,
    )


for _is_star in (False, True):
    for _block in (None, *blocks_of_rank(2)):
        add(_model(_is_star, _block))
