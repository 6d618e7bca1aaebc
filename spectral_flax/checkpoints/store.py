# SPDX-License-Identifier: Apache-2.0
"""Loading and saving of models in any format, on disk or on the Hub."""

import difflib
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.checkpoints import hub
from spectral_flax.checkpoints.load import load_torch, save_torch
from spectral_flax.checkpoints.safetensors import write_safetensors
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.variants import called_for
from spectral_flax.checkpoints.weights import Weights, assign, narrowed, variables
from spectral_flax.files import local_path, new_folder, refuse_existing
from spectral_flax.messages import several, shown
from spectral_flax.models import registry

log = logging.getLogger(__name__)
# Formats of other libraries: nobody ends the name of a folder so.
OTHER_SUFFIXES = (
    *(".h5", ".hdf5", ".keras", ".npz", ".npy", ".onnx", ".pkl", ".pickle", ".msgpack"),
    *(".gguf", ".tflite", ".pb", ".json", ".zip"),
)


def read_weights(source: str | os.PathLike, *, entry: str | None = None) -> Weights:
    """Return the weights at ``source``, whatever their format.

    ``source`` is a safetensors or PyTorch file, a folder (of the Hub's kind, or Orbax, or the
    checkpoints of a run, of which the newest is read), or the name of a repository on the Hub:
    ``owner/name`` or ``owner/name@revision``, where no such path exists. ``entry`` says which set
    of weights, where there are several: their place in a PyTorch file (see `find_weights`), or
    the first part of their names.
    """
    if isinstance(source, str) and source.startswith("hf://"):
        return hub.read_hub(source, entry=entry)
    path = local_path(source, "source")
    if path.is_dir():
        place = _newest(path)
        if place is None:
            return hub.read_folder(path, entry=entry)
        from spectral_flax.checkpoints.orbax import read_orbax  # seconds, and an extra

        return narrowed(read_orbax(place), entry, source)
    if os.path.lexists(path) or path.suffix in hub.SUFFIXES:
        return hub.read_file(path, entry=entry)
    nothing = f"there is no file or folder {shown(str(path), 200)}"
    if not (isinstance(source, str) and hub.REPOSITORY.fullmatch(source)):
        raise FileNotFoundError(nothing)
    try:
        return hub.read_hub(source, entry=entry)
    except (OSError, ImportError) as error:
        raise type(error)(f"{nothing}; {error}") from error


def create_model(
    name: str,
    *,
    pretrained: str | os.PathLike | None = None,
    skip: str | Iterable[str] = (),
    entry: str | None = None,
    allow_non_finite: bool = False,
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> nnx.Module:
    """Build the model ``name``; its ``options`` are what ``model_options(name)`` lists.

    ``pretrained`` is anything `read_weights` reads: a file, a folder or a repository on the Hub,
    with ``entry`` where it holds several sets of weights; without it weights are random. Options
    that a file of this library tells are used where it is of the same model. ``skip`` names parts
    of the model (``"head"``), by dotted paths or globs, that stay random whatever the weights hold
    for them. Weights with NaN or infinity need ``allow_non_finite``.

    Raises:
      ValueError: no such model, or an option has an impossible value.
      TypeError: no such option.
      CheckpointError: the weights do not fit.
    """
    if pretrained is None:
        if skip or entry is not None:
            given = f"skip={skip!r}" if skip else f"entry={entry!r}"
            raise ValueError(f"{given} but pretrained=None: nothing is loaded")
        return registry.create_model(name, rngs=rngs, **options)
    weights = read_weights(pretrained, entry=entry)
    if not skip and rngs is None:  # no array is drawn only to be overwritten
        loading = dict(source=pretrained, allow_non_finite=allow_non_finite)
        return build(weights, name, options, **loading)[0]
    model = registry.create_model(name, rngs=rngs, **_options(weights, name, options))
    load_weights(model, weights, skip=skip, allow_non_finite=allow_non_finite)
    return model


def load_weights(
    model: nnx.Module,
    weights: Weights,
    *,
    skip: str | Iterable[str] = (),
    allow_non_finite: bool = False,
) -> None:
    """Fill ``model``, in place, with weights under either names; strict, all or nothing.

    Entries that belong to other modules are left, and logged.
    """
    how = dict(skip=skip, allow_non_finite=allow_non_finite)
    if weights.names == "torch":
        ignored = load_torch(model, weights.tensors, **how).ignored
    else:
        ignored = assign(model, weights.tensors, **how)
    if ignored:
        log.warning("entries of other modules were left: %s", several(ignored))


def load(
    source: str | os.PathLike,
    name: str | None = None,
    *,
    entry: str | None = None,
    allow_non_finite: bool = False,
    **options: Any,
) -> nnx.Module:
    """Build the model at ``source`` (see `read_weights`) and fill it.

    A file that `save` wrote knows its model and options; for others ``name`` is needed.
    ``options`` override those of the file. Nothing is initialised at random. Weights with NaN or
    infinity need ``allow_non_finite``.
    """
    weights = read_weights(source, entry=entry)
    return build(weights, name, options, source=source, allow_non_finite=allow_non_finite)[0]


def build(
    weights: Weights,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    source: str | os.PathLike = "the file",
    allow_non_finite: bool = False,
) -> tuple[nnx.Module, str, dict[str, Any]]:
    """Return the filled model that ``weights`` belong to, its name and its options."""
    name = name or weights.model
    if name is None:
        raise ValueError(f"{source} does not say which model it holds; give its name")
    options = _options(weights, name, options or {})
    model = _abstract(name, options, weights, source)
    load_weights(model, weights, allow_non_finite=allow_non_finite)
    _seed_rngs(model)
    return model, name, options


def _abstract(name: str, options: dict[str, Any], weights: Weights, source) -> nnx.Module:
    """Build an abstract model; an error names the file if the options are the file's."""
    try:
        return registry.abstract_model(name, **options)
    except Exception as error:
        if not (weights.options and name == weights.model):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        told = shown(str(error) or type(error).__name__, 300)
        raise kind(f"the options that {source} tells do not build {name}: {told}") from error


def _options(weights: Weights, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with those of the weights, if these belong to the model ``name``.

    For other weights the defaults are those that the published file needs.
    """
    known = weights.options if name == weights.model else called_for(name, weights)
    return {**known, **options}


def save(
    model: nnx.Module,
    path: str | os.PathLike,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``model`` in the format that the suffix of ``path`` names.

    ``.safetensors`` (our names); ``.pth`` and its kin (the published PyTorch names, for
    ``torch.load``); ``.orbax`` (a directory); otherwise, and always with a slash at the end, a
    folder for the Hub. ``name`` and ``options`` are those the model was created with; `load`
    needs them to build it again. What is written appears whole or not at all.

    Raises FileExistsError if something is there, and ``overwrite`` is not set.
    """
    kind = check_target(path, overwrite=overwrite)
    path = local_path(path)
    if kind in hub.TORCH_SUFFIXES:
        write_torch(path, save_torch(model), overwrite=overwrite)
        return
    weights = Weights(variables(model), "flax", name, options or {})
    if kind == ".safetensors":
        write_safetensors(path, weights, overwrite=overwrite)
    elif kind == ".orbax":
        from spectral_flax.checkpoints.orbax import write_orbax

        if os.path.lexists(path):
            with new_folder(path, overwrite=overwrite) as draft:
                write_orbax(draft, weights)
        else:  # where it shall be: several processes may write, each its part
            write_orbax(path, weights)
    else:
        hub.write_folder(path, weights, overwrite=overwrite)


def check_target(path: str | os.PathLike, *, overwrite: bool = False) -> str:
    """Return the suffix that says what `save` makes at ``path``: nothing for a folder.

    Raises ValueError for a suffix of another format, FileExistsError for what is there already.
    """
    kind = _format(path)
    path = local_path(path)
    refuse_existing([path] if kind else hub.files_in(path), overwrite=overwrite)
    if path.is_dir() if kind and kind != ".orbax" else path.is_file():
        expected = "a file" if kind and kind != ".orbax" else "a folder"
        raise ValueError(f"path={str(path)!r} is not {expected}, and is not replaced by one")
    return kind


def _format(path: str | os.PathLike) -> str:
    """Return the suffix that names the format of ``path``, or nothing for a folder.

    A name with a dot is a folder's, unless its suffix is, or resembles, that of a format.
    """
    text, suffix = os.fspath(path), local_path(path).suffix
    known = (".safetensors", ".orbax", *hub.TORCH_SUFFIXES)
    if suffix in known or not suffix or text.endswith("/"):
        return "" if text.endswith("/") else suffix
    if suffix.lower() in OTHER_SUFFIXES or difflib.get_close_matches(suffix.lower(), known):
        raise ValueError(
            f"path={text!r} has the suffix {suffix!r}; expected {', '.join(known)}, or a folder, "
            "whose name may end in /"
        )
    return ""


def _seed_rngs(model: nnx.Module) -> None:
    """Give an abstract model's random number generators (of dropout) a state."""
    state = nnx.to_flat_state(nnx.state(model, nnx.RngState))
    values = []
    for index, (path, variable) in enumerate(state):
        counts = isinstance(variable, nnx.RngCount)
        key = jax.random.fold_in(jax.random.key(0), index)
        values.append((path, variable.replace(jnp.zeros((), jnp.uint32) if counts else key)))
    nnx.update(model, nnx.from_flat_state(values))


def _newest(path: pathlib.Path) -> pathlib.Path | None:
    """Return the Orbax checkpoint at ``path``: itself, or the newest of a run; None without."""
    if _is_orbax(path):
        return path
    for folder in (path, path / "checkpoints"):
        steps = [
            step
            for step in folder.glob("*")
            if re.fullmatch("[0-9]+", step.name) and _is_orbax(step)
        ]
        if steps:
            return max(steps, key=lambda step: int(step.name))
    return None


def _is_orbax(path: pathlib.Path) -> bool:
    markers = ("_METADATA", "_CHECKPOINT_METADATA")
    return any((path / marker).exists() for marker in markers)
