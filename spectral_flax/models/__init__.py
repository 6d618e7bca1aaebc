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
from spectral_flax.models.resnet import ResNet

__all__ = [
    "Card",
    "ResNet",
    "abstract_model",
    "card",
    "create_model",
    "init_apply",
    "list_models",
    "register",
]
