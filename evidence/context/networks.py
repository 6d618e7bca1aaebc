# SPDX-License-Identifier: Apache-2.0
"""Small residual networks that differ in what lets them see far, and cost about the same.

Two bottlenecks, of strides 4 and 8: a position sees 21 pixels, and 5 frames of a clip. Blocks
stand behind both; FFCs are in the first, and in what joins their paths in the second. Widths are
such that multiply-adds are those of the plain network, within 20 %.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from evidence.context.tasks import CLIP_SIZE, FRAMES, SIZE
from spectral_flax.models import units
from spectral_flax.models.head import Head
from spectral_flax.models.placement import inserted_blocks
from spectral_flax.models.residual import Geometry, Residual
from spectral_flax.models.resnet import STRIDED, ResNet, Stem

DEPTHS = (1, 1)
INPUT_SIZES = {2: (SIZE, SIZE), 3: (FRAMES, CLIP_SIZE, CLIP_SIZE)}
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network has.

    Attributes:
      title: how tables and figures name it.
      width: of the first bottleneck.
      block, options: what stands behind each bottleneck, and its options.
      ffc: options of its FFCs, half of whose channels are global; None: it has none.
      geometry: strides, dilation and deformable places.
      rank: 2 for images, 3 for clips.
    """

    title: str
    width: int
    block: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ffc: Mapping[str, Any] | None = None
    geometry: Geometry = STRIDED
    rank: int = 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (*INPUT_SIZES[self.rank], 1)

    def build(self, seed: int) -> ResNet:
        deformable = bool(self.geometry.deformable)
        unit = units.deformable(modulated=True) if deformable else units.fourier(**self.ffc or {})
        at = None if self.block is None else {1: (0,), 2: (0,)}
        return ResNet(
            DEPTHS,
            residual=Residual(unit=unit, ratio=0.0 if self.ffc is None else 0.5),
            stem=Stem(in_features=1, kernel=5, stride=4, pool=False),
            head=Head(num_classes=CLASSES),
            width=self.width,
            rank=self.rank,
            geometry=self.geometry,
            input_size=INPUT_SIZES[self.rank],
            **inserted_blocks(self.block, at, self.options, DEPTHS, True, rank=self.rank),
            rngs=nnx.Rngs(seed),
        )


# As published, and a quarter of the products.
POOLED = dict(sub_sample=True)
NO_L2G, NO_G2L = dict(local_to_global=False), dict(global_to_local=False)

IMAGE_NETWORKS = {
    "plain": Network("plain", 16),
    "dilated": Network("dilated", 11, geometry=Geometry(dilated=(2,), dilate_first=True)),
    "deformable": Network("deformable", 16, geometry=Geometry(deformable={2: (0,)})),
    "nl": Network("NL", 10, "nl", POOLED),
    "a2": Network("A²", 12, "a2"),
    "cgnl": Network("CGNL", 12, "cgnl"),
    "rcca": Network("RCCA", 8, "rcca"),
    "glore": Network("GloRe", 11, "glore"),
    "srl_fft": Network("SRL-FFT, published", 14, "srl_fft"),
    "srl_fft_gate": Network("SRL-FFT, gate √HW", 14, "srl_fft", dict(gate_init=15.0)),
    "srl_lo": Network("SRL-LO", 11, "srl_lo"),
    "bat": Network("BAT", 12, "bat"),
    "ffc": Network("FFC", 16, ffc=dict(lfu=False)),
    "ffc_lfu": Network("FFC with LFU", 16, ffc=dict(lfu=True)),
    "ffc_no_l2g": Network("FFC without l→g", 16, ffc=dict(lfu=False) | NO_L2G),
    "ffc_no_g2l": Network("FFC without g→l", 16, ffc=dict(lfu=False) | NO_G2L),
    "ffc_neither": Network("FFC without both", 16, ffc=dict(lfu=False) | NO_L2G | NO_G2L),
}

_IN_TIME = Geometry(temporal_kernels=((3,), (3,)))


def _video(title: str, width: int, block: str | None = None, **options: Any) -> Network:
    return Network(title, width, block, options, geometry=_IN_TIME, rank=3)


VIDEO_NETWORKS = {
    "i3d": _video("I3D", 16),
    "i3d_nl": _video("NL", 10, "nl", **POOLED),
    "i3d_a2": _video("A²", 12, "a2"),
    "i3d_cgnl": _video("CGNL", 12, "cgnl"),
    "i3d_glore": _video("GloRe", 11, "glore"),
    "i3d_srl_fft_time": _video(
        "SRL-FFT of clips", 14, "srl_fft", transform_time=True, gate_init=20.0
    ),
    "i3d_srl_lo_time": _video("SRL-LO of clips", 11, "srl_lo", transform_time=True),
    "i3d_bat3d": _video("BAT-3D", 12, "bat3d"),
    "i3d_ffc": Network("FFC of frames", 16, ffc=dict(lfu=False), geometry=_IN_TIME, rank=3),
}

NETWORKS = IMAGE_NETWORKS | VIDEO_NETWORKS
