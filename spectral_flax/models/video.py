# SPDX-License-Identifier: Apache-2.0
"""Video classification: C2D and I3D, their FFC forms, and any block in any of them.

Wang et al., "Non-local Neural Networks", CVPR 2018, as in the code of bilinear attention (Chi et
al., CVPR 2020): a 2-D ResNet on every frame (C2D), or one whose stem and every second residual
block also see neighbouring frames (I3D); half the frames after stage 1.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.functional.fourier import Implementation
from spectral_flax.layers.ffc import FFC
from spectral_flax.models.image import BACKBONES
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.registry import Card
from spectral_flax.models.resnet import ResNet
from spectral_flax.models.variants import BLOCK_PAPERS, BLOCK_TITLES, PLAIN, define


def video_resnet(
    *,
    backbone: str,
    temporal: bool,
    ratio: float = 0.25,
    lfu: bool = False,
    local_to_global: bool = True,
    global_to_local: bool = True,
    implementation: Implementation = "auto",
    block: str | None = None,
    blocks_after: Mapping[int, Sequence[int]] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (8, 224, 224),
    num_classes: int | None = 400,
    dropout: float = 0.5,
    head_window: int | None = 7,
    stem_margin: int = 0,
    in_features: int = 3,
    se: bool = False,
    width: int = 64,
    depths: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> ResNet:
    """Build a video classifier: ``[N, T, H, W, in_features] -> [N, num_classes]``.

    For any T from 2 on; of an odd number of frames the last is dropped after stage 1.

    - ``backbone``: a ResNet of `image.BACKBONES`.
    - ``temporal``: whether convolutions see neighbouring frames (I3D) or not (C2D).
    - ``ratio``: the share of global channels of the FFCs; 0 is the plain network.
    - ``lfu``, ``local_to_global``, ``global_to_local``, ``implementation``: as in `FFC`.
    - ``block``: the name of a block of `layers.blocks.BLOCKS`, or None.
    - ``blocks_after``: the residual blocks (stage → zero-based) after which it stands; None is
      where it was published (see `placement`).
    - ``block_options``: options of the block; None is as published.
    - ``input_size``: T, H, W of the clips that blocks of fixed map size are built for.
    - ``head_window``: as published, the head is applied to averages over windows of the last map, 7
      positions high and wide, and its results averaged; None averages the whole map.
    - ``stem_margin``: padding of the pooling after the stem: 0 as published here, 1 in PyTorchVideo
      and SlowFast.
    - ``depths``: residual blocks of each stage; None is that of the backbone.

    Other options as in `ResNet`.
    """
    published_depths, kind = BACKBONES[backbone]
    depths = published_depths if depths is None else depths
    bottleneck = kind.get("bottleneck", True)
    blocks = inserted_blocks(block, blocks_after, block_options, depths, bottleneck, rank=3)
    convolution = functools.partial(
        FFC,
        lfu=lfu,
        local_to_global=local_to_global,
        global_to_local=global_to_local,
        implementation=implementation,
    )
    return ResNet(
        depths,
        rank=3,
        temporal=temporal_kernels(depths, bottleneck) if temporal else None,
        stem_frames=5 if temporal else 1,
        frame_pooling=2,
        convolution=convolution,
        ratio=ratio,
        **blocks,
        input_size=input_size,
        num_classes=num_classes,
        dropout=dropout,
        head_window=head_window,
        stem_margin=stem_margin,
        in_features=in_features,
        se=se,
        width=width,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
        **kind,
    )


def temporal_kernels(depths: Sequence[int], bottleneck: bool) -> list[list[int]]:
    """Return how many frames the first convolution of each residual block of an I3D sees.

    Bottlenecks: three in all blocks of stage 1, in the first, third, … of stages 2 and 3, in the
    second, fourth, … of stage 4. Basic blocks: three in all.
    """
    if not bottleneck:
        return [[3] * depth for depth in depths]
    alternating = [[3 if i % 2 == 0 else 1 for i in range(depth)] for depth in depths[1:-1]]
    last = [3 if i % 2 == 1 else 1 for i in range(depths[-1])]
    return [[3] * depths[0], *alternating, last]


_PAPER = "Wang et al., Non-local Neural Networks, CVPR 2018"
_FFC_PAPER = "Chi, Jiang and Mu, Fast Fourier Convolution, NeurIPS 2020"
_PUBLISHED = {
    "c2d_resnet50": "71.9",
    "c2d_resnet50_nl": "73.8",
    "c2d_resnet50_bat": "74.5",
    "c2d_resnet50_bat3d": "75.2",
    "i3d_resnet50": "72.6",
    "i3d_resnet50_nl": "73.5",
    "i3d_resnet50_bat": "74.8",
    "ffc_c2d_resnet50": "73.5",
    "ffc_c2d_resnet50_nl": "74.9",
    "ffc_i3d_resnet50_nl": "75.1",
}


def _define(backbone: str, kind: str, ffc: bool, block: str | None) -> None:
    """Register C2D or I3D on a backbone, plain or FFC, with a block or without."""
    name = "_".join(filter(None, ("ffc" if ffc else "", kind, backbone, block)))
    published = _PUBLISHED.get(name)
    card = Card(
        paper=BLOCK_PAPERS.get(block) or (_FFC_PAPER if ffc else _PAPER),
        code="BA-Transform/BAT-Video-Classification",
        input_size=(8, 224, 224),
        mean=tuple(m / 255 for m in (103.939, 116.779, 123.68)),
        std=(1 / 255,) * 3,
        published=f"Kinetics-400 top-1 {published} (8 frames, 10 x 3 views)" if published else "",
        note="Published weights see RGB in [0, 255] less a mean that is in the order BGR, as here.",
    )
    title = f"{kind.upper()} on {backbone.replace('resnet', 'ResNet-')}"
    title += " whose every convolution is an FFC" if ffc else ""
    title += f" with {BLOCK_TITLES[block]}" if block else ""
    fixed = dict(backbone=backbone, temporal=kind == "i3d")
    fixed |= ({} if ffc else PLAIN) | (dict(block=block) if block else {})
    doc = f"{title}: ``[N, T, H, W, in_features] -> [N, num_classes]``."
    define(name, video_resnet, card, doc, **fixed)


for _backbone in ("resnet18", "resnet34", "resnet50", "resnet101"):
    for _kind in ("c2d", "i3d"):
        for _ffc in (False, True):
            for _block in (None, *BLOCK_TITLES):
                _define(_backbone, _kind, _ffc, _block)
