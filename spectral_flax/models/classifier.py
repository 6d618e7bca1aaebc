# SPDX-License-Identifier: Apache-2.0
"""The builder of all classifiers of images and videos: a ResNet, its FFC form, any block in it.

Its options are the user's, flat; `ResNet` takes them as records.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

from spectral_flax.functional.fourier import Implementation
from spectral_flax.layers.blocks import Builder
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.places import at_the_start_of_each_run, check_places
from spectral_flax.models import units
from spectral_flax.models.head import Head
from spectral_flax.models.placement import as_places, inserted_blocks
from spectral_flax.models.residual import Geometry, Residual
from spectral_flax.models.resnet import ResNet, Stem

# name: blocks of each stage, and what differs from a network of plain bottlenecks
BACKBONES: dict[str, tuple[tuple[int, ...], dict]] = {
    "resnet18": ((2, 2, 2, 2), dict(bottleneck=False)),
    "resnet26": ((2, 2, 2, 2), {}),
    "resnet34": ((3, 4, 6, 3), dict(bottleneck=False)),
    "resnet50": ((3, 4, 6, 3), {}),
    "resnet101": ((3, 4, 23, 3), {}),
    "resnet152": ((3, 8, 36, 3), {}),
    "resnext50_32x4d": ((3, 4, 6, 3), dict(groups=32, width_per_group=4)),
    "resnext101_32x8d": ((3, 4, 23, 3), dict(groups=32, width_per_group=8)),
}

FFC_PAPER = "Chi, Jiang and Mu, Fast Fourier Convolution, NeurIPS 2020"
OCTAVE_PAPER = "Chen et al., Drop an Octave, ICCV 2019"
# Options of one kind of convolution, which the others do not have.
_OF_FFC = dict(lfu=False, local_to_global=True, global_to_local=True, implementation="auto")
_OF_DEFORMABLE = dict(deformable_at=None, modulated=True)
IMAGE = dict(rank=2, temporal=False, temporal_shift=0, temporal_pool=1)
PLAIN = dict(octave=False, ratio=0.0) | _OF_FFC
FOURIER = dict(octave=False) | _OF_DEFORMABLE
OCTAVE = dict(octave=True, se=False, drop_path=0.0)
OCTAVE |= dict(block=None, blocks_at=None, block_options=None)
OCTAVE |= _OF_FFC | _OF_DEFORMABLE

STEMS = {"imagenet": Stem(), "small": Stem(kernel=3, stride=1, pool=False)}


def resnet_classifier(
    *,
    rank: int,
    backbone: str,
    temporal: bool = False,
    octave: bool = False,
    ratio: float = 0.25,
    lfu: bool = True,
    local_to_global: bool = True,
    global_to_local: bool = True,
    implementation: Implementation = "auto",
    project_first: bool = False,
    block: str | Builder | None = None,
    blocks_at: Mapping[int, Sequence[int]] | None = None,
    block_options: Mapping[str, Any] | None = None,
    input_size: Sequence[int] = (224, 224),
    num_classes: int | None = 1000,
    dropout: float = 0.0,
    head_pool_size: int | Sequence[int] | None = None,
    mean_of_probabilities: bool = False,
    in_features: int = 3,
    se: bool = False,
    drop_path: float = 0.0,
    temporal_shift: int = 0,
    temporal_pool: int = 2,
    stem: Literal["imagenet", "small"] = "imagenet",
    stem_pool_padding: int = 1,
    width: int = 64,
    depths: Sequence[int] | None = None,
    output_stride: int | None = None,
    deformable_at: Mapping[int, Sequence[int]] | Literal["last_stage"] | None = None,
    modulated: bool = True,
    **numerics: Unpack[Numerics],
) -> ResNet:
    """Build a classifier of images, ``[N, H, W, in_features] -> [N, num_classes]``, or of videos.

    Videos are ``[N, T, H, W, in_features]`` for any T from 2 on; of an odd number of frames the
    last is dropped after stage 1.

    Args:
      rank: 2 for images, 3 for videos.
      backbone: a key of `BACKBONES`.
      temporal: whether convolutions see neighbouring frames (I3D) or not (C2D).
      octave: of octave convolutions, not of FFCs.
      ratio: share of global channels of the FFCs; 0 is the plain network. The default of the
        published code is 0.5, that of its tables 0.25. Of octave convolutions the share of low
        frequencies, alpha in the paper.
      lfu: the local Fourier unit of the FFCs, beside the Fourier unit.
      local_to_global: FFCs have the path from local to global channels.
      global_to_local: FFCs have the path from global to local channels.
      implementation: of the Fourier transform: "fft", "matmul", or "auto" for the faster one.
      project_first: of published FFC networks of basic blocks with ratio 0 (see `Residual`).
      block: the name of a block of `layers.blocks.BLOCKS`, a function of one's own as in
        `layers.register_block`, or None.
      blocks_at: residual blocks that one follows (stage → zero-based); None: the published ones
        (see `placement`).
      block_options: options of the block; None: the published ones.
      input_size: (T,) H, W of the input that blocks of fixed map size are built for.
      num_classes: None leaves the head out: the result is the pooled features.
      dropout: rate of dropout before the head.
      head_pool_size: the head is applied to averages over windows of the last map, so many
        positions high and wide (or so many frames, rows and columns), and its results are
        averaged; None averages the whole map.
      mean_of_probabilities: outside training it is their probabilities that are averaged, as in
        PySlowFast.
      in_features: channels of the input.
      se: squeeze and excitation in every residual block.
      drop_path: chance that the last residual block is skipped in training (see `Residual`).
      temporal_shift: of videos, one of so many channels comes from the next frame, one from the
        frame before (TSM). 0: none.
      temporal_pool: of videos, so many frames become one after stage 1 (their maximum).
      stem: "imagenet" (7x7, stride 2, pooling) or "small" (3x3, stride 1, for small images).
      stem_pool_padding: padding of the pooling after the stem; for videos 0 in the published code
        of bilinear attention, 1 in PyTorchVideo and SlowFast.
      width: features of the first stage's narrow convolutions.
      depths: residual blocks of each stage; None: those of the backbone.
      output_stride: how many times smaller than the input the last map is, in height and width;
        strides of the last stages are replaced by dilation. None: 32, or 8 with the small stem.
      deformable_at: residual blocks whose 3x3 convolutions are deformable (stage → zero-based), or
        "last_stage" for all of that.
      modulated: their samples have weights (version 2); otherwise displacements alone (version 1).

    Raises:
      ValueError: an option has no such value.
      TypeError: the block has no such option.
    """
    if stem not in STEMS:
        raise ValueError(f"stem={stem!r}; expected 'imagenet' or 'small'")
    if temporal_pool < 1:
        raise ValueError(f"temporal_pool={temporal_pool}; expected at least 1")
    published_depths, kind = BACKBONES[backbone]
    depths = published_depths if depths is None else depths
    of_ffc = dict(lfu=lfu, implementation=implementation)
    of_ffc |= dict(local_to_global=local_to_global, global_to_local=global_to_local)
    if deformable_at == "last_stage":
        deformable_at = {len(depths): range(depths[-1])}
    deformable = as_places(deformable_at or {}, "deformable_at")
    unit = units.octave if octave else units.fourier(**of_ffc)
    given = dict(ratio=ratio, project_first=project_first, se=se, drop_path=drop_path)
    residual = Residual(
        unit=units.deformable(modulated=modulated) if deformable else unit,
        temporal_shift=temporal_shift,
        **given,
        **kind,
    )
    if temporal_shift and blocks_at is None and block is not None:  # as in the code of TSM
        blocks_at = at_the_start_of_each_run(depths, rank)
    bottleneck = residual.bottleneck
    return ResNet(
        depths,
        residual=residual,
        stem=dataclasses.replace(
            STEMS[stem],
            in_features=in_features,
            temporal_kernel=5 if temporal else 1,
            pool_padding=stem_pool_padding,
        ),
        head=Head(
            num_classes=num_classes,
            dropout=dropout,
            pool_size=head_pool_size,
            mean_of_probabilities=mean_of_probabilities,
        ),
        width=width,
        rank=rank,
        geometry=Geometry(
            dilated=dilated_stages(output_stride, STEMS[stem], len(depths)),
            temporal_kernels=temporal_kernels(depths, bottleneck) if temporal else None,
            deformable=check_places("deformable_at", deformable, depths),
        ),
        temporal_pool_stride=temporal_pool if rank == 3 else 1,
        **inserted_blocks(block, blocks_at, block_options, depths, bottleneck, rank=rank),
        input_size=input_size,
        **numerics,
    )


def dilated_stages(output_stride: int | None, stem: Stem, stages: int) -> tuple[int, ...]:
    """Return the stages whose stride becomes dilation, so that the last map has that stride.

    Raises:
      ValueError: no number of last stages gives it.
    """
    first = stem.stride * (2 if stem.pool else 1)
    strides = [first * 2**n for n in range(stages)]
    if output_stride is None:
        return ()
    if output_stride not in strides:
        expected = ", ".join(map(str, strides[::-1]))
        raise ValueError(f"output_stride={output_stride!r}; expected one of {expected}, or None")
    return tuple(range(strides.index(output_stride) + 2, stages + 1))


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
