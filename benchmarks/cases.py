# SPDX-License-Identifier: Apache-2.0
"""What is compared: plain forms, operators and models, ours and the published form in PyTorch.

Builders import their library when they are called, so that a process holds one of them only.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to compare.

    Attributes:
      shapes: of the input, channels last.
      quick: shapes for a trial of the commands.
      ours: the NNX module for a shape; takes ``dtype`` and ``rngs`` as well.
      peer: PyTorch's module for a shape.
      parity: case of tests/parity that the peer must pass before it is timed; None: it is a
        layer of PyTorch's own.
      works: "inference", "gradients" (of the mean square in parameters and input) or "training"
        (cross-entropy, gradients and a step of SGD with momentum).
      others: further contestants by name, as ``MODULE:FUNCTION``.
    """

    shapes: Sequence[Shape]
    quick: Sequence[Shape]
    ours: Callable[..., Any]
    peer: Callable[[Shape], Any]
    parity: str | None = None
    works: Sequence[str] = ("inference", "gradients")
    others: dict[str, str] = dataclasses.field(default_factory=dict)


def _plain(name: str) -> Case:
    """Return a case of ``benchmarks.plain_forms``, ours and in PyTorch."""

    def ours(shape, **numerics):
        return getattr(importlib.import_module("benchmarks.plain_forms"), name)(shape, **numerics)

    def peer(shape):
        return getattr(importlib.import_module("benchmarks.peers.plain"), name)(shape)

    shapes = [(4, 56, 56, 64), (4, 14, 14, 256)]
    return Case(shapes, [(2, 14, 14, 32)], ours, peer)


PLAIN = {
    name: _plain(name)
    for name in ("convolution_3x3", "convolution_1x1", "batch_normalisation", "fft_and_back")
}


def _layer(name: str, positions: int = 1, **options) -> Callable[..., Any]:
    """Return a builder of a layer of ours: ``positions`` of its arguments are the channels."""

    def make(shape, **numerics):
        from spectral_flax import layers

        return getattr(layers, name)(*[shape[-1]] * positions, **options, **numerics)

    return make


def _peer(path: str, positions: int = 1, **options) -> Callable[[Shape], Any]:
    """Return a builder of ``benchmarks.peers.MODULE:CLASS``."""
    module, name = path.split(":")

    def make(shape):
        form = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)
        return form(*[shape[-1]] * positions, **options)

    return make


def _learned(orthogonal: str) -> Callable[..., Any]:
    def make(shape, **numerics):
        from spectral_flax import layers

        return layers.srl_lo(shape[-1], size=shape[1:3], orthogonal=orthogonal, **numerics)

    return make


def _learned_peer(shape):
    from benchmarks.peers import fourier

    return fourier.OrthogonalBlock(shape[-1], shape[1:3])


MAPS = [(8, 56, 56, 32), (8, 28, 28, 64), (8, 14, 14, 128), (8, 7, 7, 256)]
QUICK_MAPS = [(2, 14, 14, 32)]
EVEN = [shape for shape in MAPS if shape[1] % 2 == 0]  # as the published local Fourier unit needs
SMALL = [shape for shape in MAPS if shape[1] <= 28]
VIDEOS = [(2, 4, 28, 28, 64), (2, 4, 14, 14, 256)]

OPERATORS = {
    "fourier_unit": Case(
        MAPS,
        QUICK_MAPS,
        _layer("FourierUnit", 2),
        _peer("fourier:FourierUnit", 2),
        "fourier_unit",
    ),
    "spectral_transform": Case(
        EVEN,
        QUICK_MAPS,
        _layer("SpectralTransform", 2),
        _peer("fourier:SpectralTransform", 2),
        "spectral_transform_lfu",
    ),
    "srl_fft": Case(MAPS, QUICK_MAPS, _layer("srl_fft"), _peer("fourier:FourierBlock"), "srl_fft"),
    "srl_lo": Case(MAPS, QUICK_MAPS, _learned("qr"), _learned_peer, "srl_lo"),
    "srl_lo_householder": Case(MAPS, QUICK_MAPS, _learned("householder"), _learned_peer, "srl_lo"),
    "nl": Case(MAPS, QUICK_MAPS, _layer("non_local"), _peer("attention:NonLocal"), "nonlocal_2d"),
    "bat": Case(
        MAPS,
        QUICK_MAPS,
        _layer("bat", dropout=0.0),
        _peer("attention:BilinearAttention"),
        "bat_2d",
    ),
    "bat3d": Case(
        VIDEOS,
        [(1, 4, 14, 14, 128)],
        _layer("bat3d", dropout=0.0),
        _peer("video:BilinearAttention", k=8, tk=4),
        "bat_3d",
    ),
    "a2": Case(
        MAPS,
        QUICK_MAPS,
        _layer("DoubleAttention", distribute="positions"),  # as in the code of SRL
        _peer("attention:DoubleAttention"),
        "double_attention",
    ),
    "cgnl": Case(
        MAPS, QUICK_MAPS, _layer("CompactNonLocal"), _peer("attention:CompactNonLocal"), "cgnl"
    ),
    "rcca": Case(
        SMALL,
        QUICK_MAPS,
        _layer("RecurrentCrissCross"),
        _peer("attention:RecurrentCrissCross"),
        "criss_cross",
    ),
}


def _model(name: str, **options) -> Callable[..., Any]:
    def make(shape, **numerics):
        import spectral_flax as sf

        return sf.create_model(name, **options, **numerics)

    return make


def _network(path: str, block: str | None = None, block_options=None, **options):
    """Return a builder of a network of ``benchmarks.peers``, with a block between its own."""
    module, name = path.split(":")

    def make(shape):
        form = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)
        if block is None:
            return form(**options)
        of_channels = _peer(block, **(block_options or {}))
        return form(block=lambda features: of_channels((features,)), **options)

    return make


IMAGES, QUICK_IMAGES = [(4, 224, 224, 3)], [(2, 64, 64, 3)]
NETWORK_WORKS = ("inference", "training")


def _fast_fourier(lfu: bool) -> Case:
    return Case(
        IMAGES,
        QUICK_IMAGES,
        _model("ffc_resnet50", ratio=0.25, lfu=lfu),
        _network("fourier:FFCResNet", ratio=0.25, lfu=lfu),
        "ffc_resnet50_lfu",
        NETWORK_WORKS,
    )


MODELS = {
    "resnet50": Case(
        IMAGES,
        QUICK_IMAGES,
        _model("resnet50"),
        _network("resnet:ResNet"),
        "resnet50",
        NETWORK_WORKS,
        {"jaxnn": "benchmarks.sides:jaxnn"},
    ),
    "ffc_resnet50": _fast_fourier(lfu=False),
    "ffc_resnet50_lfu": _fast_fourier(lfu=True),
    "resnet50_bat": Case(
        IMAGES,
        [(2, 112, 112, 3)],
        _model("resnet50_bat"),
        _network("resnet:ResNet", "attention:BilinearAttention", dict(dropout=0.2)),
        "bat_resnet50",
        NETWORK_WORKS,
    ),
    "resnet50_nl": Case(
        IMAGES,
        QUICK_IMAGES,
        _model("resnet50_nl"),
        _network("resnet:ResNet", "attention:NonLocal"),
        "nl_resnet50",
        NETWORK_WORKS,
    ),
    "c2d_resnet50_bat3d": Case(
        [(1, 8, 224, 224, 3)],
        [(1, 8, 224, 224, 3)],
        _model("c2d_resnet50_bat3d"),
        _network("video:C2D", "video:BilinearAttention", dict(k=8, tk=4, dropout=0.2)),
        "c2d_resnet50_bat3d",
        NETWORK_WORKS,
    ),
    "lama_big": Case(
        [(1, 512, 512, 4)],
        [(1, 64, 64, 4)],
        _model("lama_big"),
        _network("inpainting:Generator", blocks=18),
        "lama_9_blocks",
        ("inference",),
    ),
}

SUITES = {"plain": PLAIN, "operators": OPERATORS, "models": MODELS}
