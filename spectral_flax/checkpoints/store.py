# SPDX-License-Identifier: Apache-2.0
"""Models to and from disk or the Hub, whatever the format."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.checkpoints import hub
from spectral_flax.checkpoints.load import load_torch, save_torch
from spectral_flax.checkpoints.safetensors_file import read_safetensors, write_safetensors
from spectral_flax.checkpoints.torch_file import read_torch
from spectral_flax.checkpoints.torch_writer import write_torch
from spectral_flax.checkpoints.variants import called_for
from spectral_flax.checkpoints.weights import Weights, assign, variables
from spectral_flax.models import registry

TORCH_SUFFIXES = (".pth", ".pt", ".pyth", ".ckpt", ".bin", ".tar")


def read_weights(source: str | os.PathLike, *, entry: str | None = None) -> Weights:
    """Return the weights at ``source``, whatever their format.

    ``source`` is a safetensors or PyTorch file, a folder (of the Hub's kind, or Orbax), or the
    name of a repository on the Hub: ``owner/name`` or ``owner/name@revision``, where no such path
    exists. ``entry`` is that of `read_torch`.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        if _is_orbax(path):
            from spectral_flax.checkpoints.orbax import read_orbax  # seconds, and an extra

            return read_orbax(path)
        return hub.read_folder(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.exists() or path.suffix in TORCH_SUFFIXES or not _is_repository(source):
        found = read_torch(path, entry=entry)
        return Weights(found.tensors, names="torch", foreign=found.foreign)
    return hub.read_hub(str(source))


def create_model(
    name: str,
    *,
    pretrained: str | os.PathLike | None = None,
    skip: Sequence[str] = (),
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> nnx.Module:
    """Build the model ``name``; ``options`` are the arguments of its function.

    ``pretrained`` is anything `read_weights` reads: a file, a folder or a repository on the Hub;
    without it weights are random. ``skip`` names parts of the model (``("head",)``) that stay
    random whatever the weights hold for them.

    Raises:
      ValueError: no such model, or an option has an impossible value.
      TypeError: no such option.
      CheckpointError: the weights do not fit; all faults are listed.
    """
    if pretrained is None:
        if skip:
            raise ValueError(f"skip={tuple(skip)} but pretrained=None: nothing is loaded")
        return registry.create_model(name, rngs=rngs, **options)
    weights = read_weights(pretrained)
    if not skip and rngs is None:  # no array is drawn only to be overwritten
        return build(weights, name, options, source=pretrained)[0]
    options = weights.options | called_for(name, weights) | options
    model = registry.create_model(name, rngs=rngs, **options)
    load_weights(model, weights, skip=skip)
    return model


def load_weights(model: nnx.Module, weights: Weights, *, skip: Sequence[str] = ()) -> None:
    """Fill ``model``, in place, with weights under either names; strict, all or nothing."""
    if weights.names == "torch":
        load_torch(model, weights.tensors, skip=skip)
    else:
        assign(model, weights.tensors, skip=skip)


def load(source: str | os.PathLike, name: str | None = None, **options: Any) -> nnx.Module:
    """Build the model at ``source`` (see `read_weights`) and fill it.

    A file that `save` wrote knows its model and options; for others ``name`` is needed.
    ``options`` override those of the file. Nothing is initialised at random.
    """
    return build(read_weights(source), name, options, source=source)[0]


def build(
    weights: Weights,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    source: str | os.PathLike = "the file",
) -> tuple[nnx.Module, str, dict[str, Any]]:
    """Return the filled model that ``weights`` belong to, its name and its options."""
    name = name or weights.model
    if name is None:
        raise ValueError(f"{source} does not say which model it holds; give its name")
    known = weights.options if name == weights.model else called_for(name, weights)
    options = {**known, **(options or {})}
    model = registry.abstract_model(name, **options)
    load_weights(model, weights)
    _start_generators(model)
    return model, name, options


def save(
    model: nnx.Module,
    path: str | os.PathLike,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model`` in the format that the suffix of ``path`` names.

    ``.safetensors`` (our names); ``.pth`` and its kin (the published PyTorch names, for
    ``torch.load``); ``.orbax`` (a directory); no suffix: a folder for the Hub. ``name`` and
    ``options`` are those the model was created with; `load` needs them to build it again.
    """
    path = pathlib.Path(path)
    if path.suffix in TORCH_SUFFIXES:
        write_torch(path, save_torch(model))
        return
    weights = Weights(variables(model), "flax", name, options or {})
    if path.suffix == ".safetensors":
        write_safetensors(path, weights)
    elif path.suffix == ".orbax":
        from spectral_flax.checkpoints.orbax import write_orbax

        write_orbax(path, weights)
    elif not path.suffix:
        hub.write_folder(path, weights)
    else:
        known = ", ".join((".safetensors", ".orbax", *TORCH_SUFFIXES))
        raise ValueError(f"path={str(path)!r} has the suffix {path.suffix!r}; expected {known}")


def _start_generators(model: nnx.Module) -> None:
    """Give an abstract model's random number generators (of dropout) a state."""
    state = nnx.to_flat_state(nnx.state(model, nnx.RngState))
    values = []
    for index, (path, variable) in enumerate(state):
        counts = isinstance(variable, nnx.RngCount)
        key = jax.random.fold_in(jax.random.key(0), index)
        values.append((path, variable.replace(jnp.zeros((), jnp.uint32) if counts else key)))
    nnx.update(model, nnx.from_flat_state(values))


def _is_orbax(path: pathlib.Path) -> bool:
    markers = ("_METADATA", "_CHECKPOINT_METADATA")
    return any((path / marker).exists() for marker in markers)


def _is_repository(source: str | os.PathLike) -> bool:
    return isinstance(source, str) and hub.REPOSITORY.fullmatch(source) is not None
