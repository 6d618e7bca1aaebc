# SPDX-License-Identifier: Apache-2.0
"""Architectures, by name."""

import importlib
import pkgutil

from spectral_flax.models.head import Head
from spectral_flax.models.options import Option, model_options
from spectral_flax.models.record import Card, ModelRecord, Preprocessing
from spectral_flax.models.registry import (
    Model,
    abstract_model,
    add,
    card,
    create_model,
    get_model,
    list_models,
    register_model,
)
from spectral_flax.models.residual import Geometry, Residual
from spectral_flax.models.resnet import ResNet, Stem

__all__ = [
    "Card",
    "Geometry",
    "Head",
    "Model",
    "ModelRecord",
    "Option",
    "Preprocessing",
    "ResNet",
    "Residual",
    "Stem",
    "abstract_model",
    "add",
    "card",
    "create_model",
    "get_model",
    "list_models",
    "model_options",
    "register_model",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):  # each adds its models
    importlib.import_module(_module.name)
