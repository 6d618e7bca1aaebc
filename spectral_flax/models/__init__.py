# SPDX-License-Identifier: Apache-2.0
"""Architectures, by name."""

from spectral_flax.models import image, inpainting, pose, segmentation, video  # noqa: F401  (register models)
from spectral_flax.models.registry import (
    Card,
    abstract_model,
    card,
    create_model,
    init_apply,
    list_models,
    register,
)
from spectral_flax.models.residual import Residual
from spectral_flax.models.resnet import Head, ResNet, Stem

__all__ = [
    "Card",
    "Head",
    "ResNet",
    "Residual",
    "Stem",
    "abstract_model",
    "card",
    "create_model",
    "init_apply",
    "list_models",
    "register",
]
