# SPDX-License-Identifier: Apache-2.0
"""Pretrained weights that a run starts from, and what of the model stays as they are."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.faults import CheckpointError
from spectral_flax.checkpoints.parts import as_parts, chosen, covers
from spectral_flax.checkpoints.store import load_weights
from train.config import Config, Pretrained
from train.errors import UserError
from train.processes.distributed import log
from train.task import Task

HEAD = "head"


def adopted(config: Config, find_stored: Callable[[], Config | None]) -> Config:
    """Return a config without a model with that of its weights: options, size, scaling of images.

    A saved run, whose config ``find_stored`` returns, goes on with its own.

    Raises:
      UserError: nothing tells a model.
    """
    if config.model is not None:
        return config
    stored = find_stored()
    if stored is not None:
        data = {name: getattr(stored.data, name) for name in _ADOPTED}
        return _with(config, stored.model, stored.options, data)
    start = config.pretrained
    if start.weights is None:
        raise UserError("--model is None; expected a name, or --pretrained.weights FILE")
    try:
        record = sf.read_weights(start.weights, entry=start.entry).record
        if record.model is None:
            raise ValueError("it does not say which model it holds; give --model NAME")
        about = record.preprocessing or sf.card(record.model).preprocessing
    except (OSError, TypeError, ValueError, ImportError) as error:
        raise UserError(f"--pretrained.weights {os.fspath(start.weights)}: {error}") from error
    options = {name: v for name, v in record.options.items() if name not in _OF_THE_DATA}
    data = dict(size=about.input_size[-2:], mean=about.mean, std=about.std)
    if len(about.input_size) == 3:
        data |= dict(frames=about.input_size[0], stride=about.stride, sampling=about.sampling)
    data["resize"] = about.resize if about.fit == "crop" else None
    if max(about.mean) > 1:
        data |= {name: tuple(v / 255 for v in data[name]) for name in ("mean", "std")}
    if len(about.mean) != 3:  # of images with other channels than files have
        data |= dict(mean=None, std=None)
    data["channels"] = about.channel_order.lower() if about.channel_order != "grey" else "rgb"
    return _with(config, record.model, options, data)


_ADOPTED = ("size", "mean", "std", "channels", "resize", "frames", "stride", "sampling")
# Options of a model that the data decide, or the run.
_OF_THE_DATA = ("num_classes", "in_features", "input_size", "num_joints", "dtype")


def _with(config: Config, model: str | None, options: dict, data: dict) -> Config:
    """Return the config with a model, and with fields of the data that are not given."""
    plain = type(config.data)()
    given = {name for name in data if getattr(config.data, name) != getattr(plain, name)}
    data = {name: value for name, value in data.items() if name not in given}
    return dataclasses.replace(
        config,
        model=model,
        options={**options, **config.options},
        data=dataclasses.replace(config.data, **data),
    )


def frozen_parameters(model: nnx.Module, parts: Sequence[str]) -> frozenset[str]:
    """Return the names of the parameters in ``parts``, whose modules do as in evaluation.

    Raises:
      UserError: the model has no such part, or no other.
    """
    if not parts:
        return frozenset()
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    names = [".".join(map(str, path)) for path, _ in state]
    try:
        found = chosen(names, parts, of=type(model).__name__, option="--freeze")
    except ValueError as error:
        raise UserError(str(error)) from error
    if len(found) == len(names):
        raise UserError(
            f"--freeze {' '.join(parts)}: every parameter is frozen, none left to train"
        )
    for path, module in nnx.iter_modules(model):
        if any(covers(part, ".".join(map(str, path))) for part in parts):
            module.eval()
    log(f"frozen: {len(found)} of {len(names)} arrays of parameters, in {', '.join(parts)}")
    return frozenset(found)


def load_pretrained(
    start: Pretrained, model: nnx.Module, task: Task, class_names: Sequence[str] = ()
) -> None:
    """Fill ``model`` with the weights that ``start`` names, if any; say what was filled.

    A head of other classes, as their number or the names that the weights tell differ from
    ``class_names``, stays random.

    Raises:
      UserError: the weights cannot be read or do not fit; what does not is listed.
    """
    if start.weights is None:
        return
    try:
        report = (
            _inflated(start, model)
            if start.inflate is not None
            else _filled(start, model, task, class_names)
        )
    except (OSError, TypeError, ValueError, ImportError) as error:
        raise UserError(f"--pretrained.weights {os.fspath(start.weights)}: {error}") from error
    log(f"begins from {start.weights}: {report}")


def _filled(start: Pretrained, model: nnx.Module, task: Task, class_names: Sequence[str]) -> str:
    weights = sf.read_weights(start.weights, entry=start.entry)
    skip = as_parts(start.skip, "--pretrained.skip")
    weights, skip = task.weights_to_start(weights, skip)
    how = dict(allow_non_finite=start.allow_non_finite)
    theirs = weights.record.class_names
    others = bool(theirs and class_names) and tuple(theirs) != tuple(class_names)
    has_head = any(path[0] == "head" for path, _ in nnx.to_flat_state(nnx.state(model)))
    if others and has_head and HEAD not in skip:
        skip = (*skip, HEAD)
    try:
        load_weights(model, weights, skip=skip, **how)
    except CheckpointError as error:
        of_shape = all(f.startswith(("shape:", "missing:", "unexpected:")) for f in error.faults)
        if not (has_head and of_shape) or HEAD in skip:  # a NaN is no other number of classes
            raise
        try:
            load_weights(model, weights, skip=(*skip, HEAD), **how)
        except CheckpointError:
            others = False
        else:
            skip, others = (*skip, HEAD), True
        if not others:
            raise
    kept = f" but those of {', '.join(skip)}" if skip else ""
    return f"all arrays{kept}" + (", which is of other classes and new" if others else "")


def _inflated(start: Pretrained, model: nnx.Module) -> str:
    options = {"num_classes": None} | start.inflate_options
    skip = () if options["num_classes"] else ("head",)
    how = dict(allow_non_finite=start.allow_non_finite)
    image_model = sf.create_model(
        start.inflate, pretrained=start.weights, entry=start.entry, skip=skip, **how, **options
    )
    return str(sf.inflate(image_model, model, skip=start.skip or skip, **how))
