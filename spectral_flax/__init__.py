# SPDX-License-Identifier: Apache-2.0
"""Networks that see the whole image at once, in JAX and Flax NNX."""

from spectral_flax import functional, kernels, layers
from spectral_flax.bridges import LinenModel, get_variables, init_apply, set_variables, to_linen
from spectral_flax.checkpoints.inflate import inflate
from spectral_flax.checkpoints.load import CheckpointError, load_torch, save_torch
from spectral_flax.checkpoints.public.table import list_models
from spectral_flax.checkpoints.store import create_model, load, read_weights, save
from spectral_flax.checkpoints.upload import push_to_hub
from spectral_flax.exporting.export import Exported, export
from spectral_flax.inference.inpainting import inpaint
from spectral_flax.inference.prediction import predict
from spectral_flax.inference.preparation import prepare
from spectral_flax.layers.blocks import register_block
from spectral_flax.layers.folding import fold_batch_norm
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.models import (
    Card,
    ModelRecord,
    Preprocessing,
    abstract_model,
    card,
    model_options,
    register_model,
)

__version__ = "0.1.0"

__all__ = [
    "Card",
    "CheckpointError",
    "Exported",
    "LinenModel",
    "ModelRecord",
    "Preprocessing",
    "abstract_model",
    "card",
    "create_model",
    "evaluation_mode",
    "export",
    "fold_batch_norm",
    "functional",
    "get_variables",
    "inflate",
    "init_apply",
    "inpaint",
    "kernels",
    "layers",
    "list_models",
    "load",
    "load_torch",
    "model_options",
    "predict",
    "prepare",
    "push_to_hub",
    "read_weights",
    "register_block",
    "register_model",
    "save",
    "save_torch",
    "set_variables",
    "to_linen",
]
