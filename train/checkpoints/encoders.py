# SPDX-License-Identifier: Apache-2.0
"""Classifiers that a task starts from or compares with, and a run's own copy of them."""

import shutil
import tempfile
from pathlib import Path

from flax import nnx

import spectral_flax as sf
from spectral_flax import buckets
from spectral_flax.checkpoints import manifest
from spectral_flax.checkpoints.safetensors import read_safetensors, write_safetensors
from spectral_flax.checkpoints.store import load_weights
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.files import new_folder, read_bytes
from spectral_flax.messages import reason
from train.errors import UserError
from train.processes.distributed import is_main_process, log, wait_for_all
from train.processes.paths import given_path, set_aside

HEADS = ("fc.", "head.")
COPY = "weights/encoder.safetensors"


def read_encoder(name: str, path: str) -> Weights:
    """Return the weights at ``path``, which the option ``name`` gives, without a classifier's head.

    Raises:
      UserError: they cannot be read.
    """
    path = given_path(name, path)
    try:
        weights = sf.read_weights(path)
    except (OSError, TypeError, ValueError, ImportError) as error:
        raise UserError(f"{name} {path!r}: {reason(error, 500)}") from error
    bare = {n.removeprefix("module."): array for n, array in weights.tensors.items()}
    body = {n: array for n, array in bare.items() if not n.startswith(HEADS)}
    # Without a record, so that a copy of the same numbers is the same file.
    return Weights(body, weights.names)


def fill_encoder(name: str, model: nnx.Module, weights: Weights) -> None:
    """Fill ``model`` in place; raises UserError, with all faults, if the weights do not fit."""
    try:
        load_weights(model, weights)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error


def kept_encoder(name: str, path: str, folder: Path, *, begins: bool) -> Weights:
    """Return the weights at ``path`` when a run ``begins``, later those it keeps in ``folder``.

    A run that has no copy, as older ones have not, reads ``path`` again and keeps one.
    """
    if not begins and folder.is_dir():
        fault = manifest.fault(folder)
        fault = fault if (folder / manifest.NAME).exists() else f"{manifest.NAME} is missing"
        if fault:
            raise UserError(
                f"the run's copy of {name}, {str(folder)!r}, is damaged: {fault}; remove that "
                f"folder to read {path!r} again"
            )
        with buckets.local_copy(folder / COPY) as copy:
            return read_safetensors(copy)
    if not begins:
        log(f"{str(folder)!r} does not exist; reading {name} from {path!r} again")
    weights = read_encoder(name, path)
    if is_main_process():
        _keep(weights, folder)
    wait_for_all("the encoder is kept")
    return weights


def _keep(weights: Weights, folder: Path) -> None:
    there = folder / manifest.NAME
    try:
        earlier = read_bytes(there) if there.exists() else None
        with tempfile.TemporaryDirectory() as place:
            draft = Path(place, folder.name)
            (draft / COPY).parent.mkdir(parents=True)
            write_safetensors(draft / COPY, weights)
            manifest.write(draft)
            if earlier == (draft / manifest.NAME).read_bytes():
                return
            set_aside(folder)  # of a run that began here and never came to a checkpoint
            with new_folder(folder) as kept:
                shutil.copytree(draft, kept, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot keep a copy in {str(folder)!r}: {reason(error)}") from error
