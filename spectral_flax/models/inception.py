# SPDX-License-Identifier: Apache-2.0
"""Networks of Inception blocks: GoogLeNet of images, I3D and S3D of videos.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, with batch normalisation; Carreira and
Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017 (I3D); Xie et al., "Rethinking Spatiotemporal
Feature Learning", ECCV 2018 (S3D).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.functional.pooling import max_pool
from spectral_flax.layers.conv import Size
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.video_conv import FactorisedConv
from spectral_flax.models.head import Classifier, Head
from spectral_flax.models.r3d import NORMALISATION
from spectral_flax.models.record import Card
from spectral_flax.models.registry import Model, add

EPSILON = 1e-3
Padding = Literal["ceil", "same"] | int


class Widths(NamedTuple):
    """Features of a block's branches; two of them are reduced first."""

    point: int
    reduced: int
    square: int
    reduced2: int
    square2: int
    pooled: int

    @property
    def total(self) -> int:
        return self.point + self.square + self.square2 + self.pooled


# By stage, between the poolings.
STAGES = (
    {"3a": Widths(64, 96, 128, 16, 32, 32), "3b": Widths(128, 128, 192, 32, 96, 64)},
    {
        "4a": Widths(192, 96, 208, 16, 48, 64),
        "4b": Widths(160, 112, 224, 24, 64, 64),
        "4c": Widths(128, 128, 256, 24, 64, 64),
        "4d": Widths(112, 144, 288, 32, 64, 64),
        "4e": Widths(256, 160, 320, 32, 128, 128),
    },
    {"5a": Widths(256, 160, 320, 32, 128, 128), "5b": Widths(384, 192, 384, 48, 128, 128)},
)


class Pool(NamedTuple):
    """A maximum pooling: windows, strides, and padding on each side.

    "ceil" pads at the end as much as a last window needs, "same" on both sides as much as keeps a
    position for each stride.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding = 0

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.padding == "same":
            return max_pool(x, self.window, self.strides, "SAME")
        if self.padding == "ceil":
            sizes = zip(x.shape[1:-1], self.window, self.strides, strict=True)
            margins = [(0, max(0, k - n, (k - n) % s)) for n, k, s in sizes]
        else:
            margins = [(0, 0) if k == 1 else (self.padding,) * 2 for k in self.window]
        return max_pool(x, self.window, self.strides, margins)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """What networks of the family differ in.

    Attributes:
      rank: 2 for images, 3 for videos.
      pools: behind the stem, before the stages.
      factorised: convolutions over space and time are done in two steps.
      same_padding: convolutions keep a position for each stride, as in TensorFlow.
    """

    rank: int
    pools: tuple[Pool, Pool, Pool, Pool]
    factorised: bool = False
    same_padding: bool = False

    @property
    def windowed(self) -> Callable[..., nnx.Module]:
        """Builds a convolution of windows, with its normalisation and ReLU."""
        options = dict(rank=self.rank, epsilon=EPSILON)
        if self.factorised:
            return functools.partial(ConvNormAct, layer=_separable, **options)
        padding = {"padding": "SAME"} if self.same_padding else {}
        return functools.partial(ConvNormAct, **padding, **options)


def _separable(
    in_features: int, out_features: int, kernel_size: Size, **options: Any
) -> nnx.Module:
    about = dict(mid_features=out_features, epsilon=EPSILON)
    return FactorisedConv(in_features, out_features, kernel_size, **about, **options)


_IMAGE = (3, 3), (2, 2), "ceil"
_FRAMES = (1, 3, 3), (1, 2, 2)
_BOTH = (3, 3, 3), (2, 2, 2)
FORMS = {
    "googlenet": Form(rank=2, pools=(*[Pool(*_IMAGE)] * 3, Pool((2, 2), (2, 2), "ceil"))),
    "s3d": Form(
        rank=3,
        pools=(*[Pool(*_FRAMES, 1)] * 2, Pool(*_BOTH, 1), Pool((2,) * 3, (2,) * 3)),
        factorised=True,
    ),
    "i3d": Form(
        rank=3,
        pools=(
            *[Pool(*_FRAMES, "same")] * 2,
            Pool(*_BOTH, "same"),
            Pool((2,) * 3, (2,) * 3, "same"),
        ),
        same_padding=True,
    ),
}


class InceptionBlock(nnx.Module):
    """Four branches side by side: ``[N, *spatial, in_features] -> [N, *spatial, widths.total]``."""

    def __init__(self, in_features: int, widths: Widths, form: Form, **numerics: Unpack[Numerics]):
        point = functools.partial(ConvNormAct, rank=form.rank, epsilon=EPSILON, **numerics)
        square = functools.partial(form.windowed, kernel_size=(3,) * form.rank, **numerics)
        self.point = point(in_features, widths.point)
        self.reduce = point(in_features, widths.reduced)
        self.square = square(widths.reduced, widths.square)
        self.reduce2 = point(in_features, widths.reduced2)
        self.square2 = square(widths.reduced2, widths.square2)
        self.pool = Pool((3,) * form.rank, (1,) * form.rank, 1)
        self.pooled = point(in_features, widths.pooled)

    def __call__(self, x: jax.Array) -> jax.Array:
        squares = self.square(self.reduce(x)), self.square2(self.reduce2(x))
        return jnp.concatenate([self.point(x), *squares, self.pooled(self.pool(x))], -1)


class Inception(Classifier):
    """Network of Inception blocks: ``[N, *spatial, in_features] -> [N, num_classes]``.

    Args:
      form: "googlenet" for images ``[N, H, W, C]``; "i3d" or "s3d" for videos ``[N, T, H, W, C]``.
      num_classes: None leaves the head out: the result is the pooled features.
      dropout: rate of dropout before the head.
      head_pool_size: the head is applied to averages over windows of the last map, of so many
        frames, rows and columns, and its results are averaged; None averages the whole map.
      width: features of the stem; those of all layers are in proportion to the published ones, for
        which it is 64.
      in_features: channels of the input.

    Raises:
      ValueError: an option has no such value, or nothing is left of the input behind the poolings.
    """

    def __init__(
        self,
        *,
        form: str,
        num_classes: int | None = 1000,
        dropout: float = 0.2,
        head_pool_size: int | Sequence[int] | None = None,
        width: int = 64,
        in_features: int = 3,
        **numerics: Unpack[Numerics],
    ):
        if width < 4:
            raise ValueError(f"width={width}; expected at least 4, of which the narrowest have one")
        about = FORMS[form]
        scaled = lambda features: max(1, features * width // 64)
        windowed = functools.partial(about.windowed, **numerics)
        self.rank, self.in_features, self.pools = about.rank, in_features, about.pools
        self.stem = windowed(in_features, width, (7,) * self.rank, strides=(2,) * self.rank)
        self.reduce = ConvNormAct(width, width, rank=self.rank, epsilon=EPSILON, **numerics)
        features = scaled(192)
        self.expand = windowed(width, features, (3,) * self.rank)
        for number, blocks in enumerate(STAGES, start=1):
            stage = nnx.Dict()
            for name, published in blocks.items():
                widths = Widths(*map(scaled, published))
                stage[f"inception{name}"] = InceptionBlock(features, widths, about, **numerics)
                features = widths.total
            setattr(self, f"stage{number}", stage)
        head = Head(num_classes=num_classes, dropout=dropout, pool_size=head_pool_size)
        self._make_head(f"stage{len(STAGES)}", features, head, **numerics)

    def features(self, x: jax.Array) -> dict[str, jax.Array]:
        """Return the feature maps by name: ``stem``, ``expand``, ``stage1`` to ``stage3``."""
        x = self._checked(x, self.in_features)
        first, *others = self.pools
        maps = {"stem": self.stem(x)}
        x = maps["expand"] = self.expand(self.reduce(first(maps["stem"])))
        for number, pool in enumerate(others, start=1):
            x = pool(x)
            if 0 in x.shape[1:]:
                raise ValueError(f"nothing is left of the input in stage {number}: {x.shape}")
            for block in getattr(self, f"stage{number}").values():
                x = self._run(block, x)
            maps[f"stage{number}"] = x
        return maps


_GOOGLENET = Card(
    paper="Szegedy et al., Going Deeper with Convolutions, CVPR 2015",
    code="pytorch/vision",
    licence="BSD-3-Clause",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    published="ImageNet top-1 69.8",
    note="Its wider convolution is 3x3, as in the published code, where the paper has 5x5.",
)
_I3D = Card(
    paper="Carreira and Zisserman, Quo Vadis, Action Recognition?, CVPR 2017",
    code="piergiaj/pytorch-i3d",
    licence="Apache-2.0",
    input_size=(64, 224, 224),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    stride=1,
    published="Kinetics-400 top-1 71.1 (64 frames)",
)
_S3D = Card(
    paper="Xie et al., Rethinking Spatiotemporal Feature Learning, ECCV 2018",
    code="pytorch/vision",
    licence="BSD-3-Clause",
    input_size=(64, 224, 224),
    stride=1,
    published="Kinetics-400 top-1 72.2 (64 frames)",
    **NORMALISATION,
)
for _name, _form, _card, _title, _defaults in (
    ("googlenet", "googlenet", _GOOGLENET, "Inception network of images", {}),
    (
        "i3d_inception",
        "i3d",
        _I3D,
        "Inception network of 3x3x3 convolutions",
        dict(num_classes=400, dropout=0.5, head_pool_size=(2, 7, 7)),
    ),
    (
        "s3d",
        "s3d",
        _S3D,
        "Inception network of convolutions over space, then time",
        dict(num_classes=400, head_pool_size=(2, 7, 7)),
    ),
):
    add(
        Model(
            name=_name,
            function=Inception,
            card=_card,
            title=f"{_title}: ``[N, *spatial, in_features] -> [N, num_classes]``.",
            family="inception",
            task="classification",
            rank=FORMS[_form].rank,
            fixed=dict(form=_form),
            defaults=_defaults,
        )
    )
