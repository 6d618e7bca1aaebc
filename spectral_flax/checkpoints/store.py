# SPDX-License-Identifier: Apache-2.0
"""Loading and saving of models in any format, on disk or on the Hub."""

import dataclasses
import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax import buckets
from spectral_flax.checkpoints import hub
from spectral_flax.checkpoints.bucket_copy import bucket_copy
from spectral_flax.checkpoints.load import load_torch, save_torch
from spectral_flax.checkpoints.prefixes import entries_below
from spectral_flax.checkpoints.public.read import read_public
from spectral_flax.checkpoints.public.table import default_row, table
from spectral_flax.checkpoints.records import record_to_json
from spectral_flax.checkpoints.runs import newest_step
from spectral_flax.checkpoints.safetensors import write_safetensors
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.variants import called_for
from spectral_flax.checkpoints.weights import Weights, assign, narrowed, variables
from spectral_flax.files import any_path, local_path, new_folder, refuse_existing
from spectral_flax.messages import closest, several, shown
from spectral_flax.models import registry
from spectral_flax.models.record import ModelRecord, WeightKind

log = logging.getLogger(__name__)
# Formats of other libraries: nobody ends the name of a folder so.
OTHER_SUFFIXES = (
    *(".h5", ".hdf5", ".keras", ".npz", ".npy", ".onnx", ".pkl", ".pickle", ".msgpack"),
    *(".gguf", ".tflite", ".pb", ".json", ".zip"),
)


def read_weights(
    source: str | os.PathLike[str], *, entry: str | None = None, weights: WeightKind | None = None
) -> Weights:
    """Return the weights at ``source``, whatever their format, and the record of their model.

    ``source`` is a safetensors or PyTorch file, a folder (of the Hub's kind, or Orbax, or a run, of
    which the newest checkpoint is read, its ``best``, or one of its checkpoints), either also in a
    bucket (``gs://BUCKET/NAME``), or the name of a repository on the Hub: ``owner/name`` or
    ``owner/name@revision``, where no such path exists, of the table of public weights for one.
    ``entry`` says which set of weights, where there are several: their place in a PyTorch file (see
    `find_weights`), or the first part of their names. ``weights`` says which parameters of a run:
    those averaged over training, "ema", or the last, "raw"; None: the averaged ones where there are
    any.
    """
    if weights not in (None, "ema", "raw"):
        raise ValueError(f"weights={weights!r}; expected 'ema' or 'raw'")
    found = _read(source, entry, weights)
    if weights is not None and found.record.weights not in (None, weights):
        raise ValueError(f"{source} holds {found.record.weights} weights; expected {weights}")
    return found


def _read(source: str | os.PathLike[str], entry: str | None, kind: WeightKind | None) -> Weights:
    if isinstance(source, str) and source.startswith("hf://"):
        return hub.read_hub(source, entry=entry)
    path = any_path(source, "source")
    if buckets.is_remote(path):
        with bucket_copy(path) as copy:
            return _read(copy, entry, kind)
    if isinstance(source, str) and source in table() and not os.path.lexists(path):
        return read_public(source, entry=entry)
    if path.is_dir():
        place = newest_step(path)
        if place is None:
            return hub.read_folder(path, entry=entry)
        from spectral_flax.checkpoints.orbax import read_orbax  # seconds, and an extra

        return narrowed(read_orbax(place, kind), entry, source)
    if os.path.lexists(path) or path.suffix in hub.SUFFIXES:
        return hub.read_file(path, entry=entry)
    nothing = f"there is no file or folder {shown(str(path), 200)}"
    named = hub.REPOSITORY.fullmatch(source) if isinstance(source, str) else None
    if named is None or path.suffix in (".orbax", *OTHER_SUFFIXES):
        raise FileNotFoundError(nothing)
    parent = path.parent
    if parent != parent.parent and parent.is_dir():  # runs/fist for runs/first: no owner's name
        inside = closest(path.name, (entry.name for entry in parent.iterdir()))
        raise FileNotFoundError(
            f"{nothing} in the folder {shown(str(parent), 200)}; {inside}; "
            f"a repository of the Hub is hf://{source}"
        )
    try:
        return hub.read_hub(source, entry=entry)
    except (OSError, ImportError) as error:
        near = difflib.get_close_matches(source, table(), 1, 0.8)
        meant = f"; closest of spectral-flax list --pretrained: {near[0]}" if near else ""
        raise type(error)(f"{nothing}; {error}{meant}") from error


def create_model(
    name: str,
    *,
    pretrained: str | os.PathLike[str] | bool | None = None,
    skip: str | Iterable[str] = (),
    entry: str | None = None,
    weights: WeightKind | None = None,
    allow_non_finite: bool = False,
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> nnx.Module:
    """Build the model ``name``; its ``options`` are what ``model_options(name)`` lists.

    ``pretrained`` is anything `read_weights` reads: a file, a folder, a repository on the Hub or a
    row of ``list_models(pretrained=True)``, with ``entry`` and ``weights`` as there; True: the
    model's own row of public weights. Without it weights are random. Options
    that a file of this library tells are used where it is of the same model. ``skip`` names parts
    of the model (``"head"``), by dotted paths or globs, that stay random whatever the weights hold
    for them. Weights with NaN or infinity need ``allow_non_finite``.

    Raises:
      ValueError: no such model, or an option has an impossible value.
      TypeError: no such option.
      CheckpointError: the weights do not fit.
    """
    if pretrained is True:
        pretrained = default_row(name).name
    if pretrained is None or pretrained is False:
        given = {"skip": skip or None, "entry": entry, "weights": weights}
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"{option}={value!r} but pretrained=None: nothing is loaded")
        return registry.create_model(name, rngs=rngs, **options)
    found = read_weights(pretrained, entry=entry, weights=weights)
    if not skip and rngs is None:  # no array is drawn only to be overwritten
        loading = dict(source=pretrained, allow_non_finite=allow_non_finite)
        return build(found, name, options, **loading)
    model = registry.create_model(name, rngs=rngs, **_options(found, name, options))
    load_weights(model, found, skip=skip, allow_non_finite=allow_non_finite)
    if not skip:
        model.record = _record(model, found)
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
    source: str | os.PathLike[str],
    name: str | None = None,
    *,
    entry: str | None = None,
    weights: WeightKind | None = None,
    allow_non_finite: bool = False,
    **options: Any,
) -> nnx.Module:
    """Build the model at ``source`` (see `read_weights`, also for ``weights``) and fill it.

    A run, or a file that `save` wrote, knows its model and options; for others ``name`` is needed.
    ``options`` override those of the file. Of a run that trained several networks it is the one
    that is used: the generator. Nothing is initialised at random. The model's ``record`` tells its
    size, class names, figures and the like. Weights with NaN or infinity need
    ``allow_non_finite``.

    Raises:
      FileNotFoundError: there is nothing at ``source``.
      ValueError: it is damaged, no weights of any known kind, or does not say its model.
      CheckpointError: the weights do not fit.
    """
    found = read_weights(source, entry=entry, weights=weights)
    return build(found, name, options, source=source, allow_non_finite=allow_non_finite)


def build(
    weights: Weights,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    source: str | os.PathLike[str] = "the file",
    allow_non_finite: bool = False,
) -> nnx.Module:
    """Return the filled model that ``weights`` belong to."""
    name = name or weights.model
    if name is None:
        raise ValueError(f"{source} does not say which model it holds; give its name")
    options = _options(weights, name, options or {})
    weights = _in_use(weights)
    model = _abstract(name, options, weights, source)
    load_weights(model, weights, allow_non_finite=allow_non_finite)
    _seed_rngs(model)
    model.record = _record(model, weights)
    return model


def _in_use(weights: Weights) -> Weights:
    """Return the generator's weights of a run that trained it against a discriminator."""
    parts = {name.partition(".")[0] for name in weights.tensors}
    if weights.names != "flax" or parts != {"generator", "discriminator"}:
        return weights
    return dataclasses.replace(weights, tensors=entries_below(weights.tensors, "generator"))


def _record(model: nnx.Module, weights: Weights) -> ModelRecord:
    """Return the record of a model filled with ``weights``: what these tell, else its own."""
    own, told = model.record, weights.record
    if told.model not in (None, own.model):
        return own
    return dataclasses.replace(
        told,
        model=own.model,
        options=own.options,
        task=told.task or own.task,
        preprocessing=told.preprocessing or own.preprocessing,
        licence=told.licence or own.licence,
        source=told.source or own.source,
    )


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
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    names: Literal["ours", "torch"] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``model`` in the format that the suffix of ``path`` names.

    ``.safetensors``; ``.pth`` and its kin, for ``torch.load``; ``.orbax`` (a directory); otherwise,
    and always with a slash at the end, a folder for the Hub. ``names`` are those of the arrays:
    "ours", the dotted paths of the modules, or "torch", those of the published PyTorch code; None:
    "torch" for PyTorch's files, "ours" for all others. With the weights goes the model's record;
    ``name`` and ``options``, those it was created with, are for a model without one. What is
    written appears whole or not at all.

    Raises FileExistsError if something is there, and ``overwrite`` is not set; ValueError if
    ``names`` are neither.
    """
    if names not in (None, "ours", "torch"):
        raise ValueError(f"names={names!r}; expected 'ours' or 'torch'")
    kind = check_target(path, overwrite=overwrite)
    record = record_of(model, name, options)
    path = local_path(path)
    of_torch = kind in hub.TORCH_SUFFIXES if names is None else names == "torch"
    arrays = save_torch(model) if of_torch else variables(model)
    if kind in hub.TORCH_SUFFIXES:
        text = record_to_json(record) if record.model else None
        write_torch(path, arrays, record=text, overwrite=overwrite)
        return
    weights = Weights(arrays, "torch" if of_torch else "flax", record)
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


def record_of(
    model: nnx.Module, name: str | None = None, options: Mapping[str, Any] | None = None
) -> ModelRecord:
    """Return the record of a model; ``name`` and ``options`` are for one that has none."""
    record = model.record if hasattr(model, "record") else ModelRecord()
    given = {"model": name, "options": options}
    return dataclasses.replace(record, **{k: v for k, v in given.items() if v is not None})


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> str:
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


def _format(path: str | os.PathLike[str]) -> str:
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
    values = []
    for index, (path, variable) in enumerate(nnx.to_flat_state(nnx.state(model, nnx.RngState))):
        key = jax.random.fold_in(jax.random.key(0), index)
        value = jnp.zeros((), jnp.uint32) if isinstance(variable, nnx.RngCount) else key
        values.append((path, variable.replace(value)))
    nnx.update(model, nnx.from_flat_state(values))
