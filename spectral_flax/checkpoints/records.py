# SPDX-License-Identifier: Apache-2.0
"""Records of models as JSON: ``config.json``, and what stands in the files of weights."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from spectral_flax.checkpoints.earlier import current_options, options_before_records
from spectral_flax.checkpoints.json_text import parse_json
from spectral_flax.messages import quoted, shown
from spectral_flax.models.record import ModelRecord, Preprocessing
from spectral_flax.models.registry import MODELS

LIBRARY = "spectral_flax"
FORMAT = 1
MAX_DEPTH = 16  # of a model's options


def record_to_json(record: ModelRecord) -> str:
    """Return a record as a text in JSON that people can read; `record_from_json` gives it back.

    Tuples and lists are one thing, as are dtypes and their names. Raises TypeError for options
    without a written form (functions, arrays).
    """
    values: dict[str, Any] = {"library": LIBRARY, "format": FORMAT}
    for field in dataclasses.fields(ModelRecord):
        value = getattr(record, field.name)
        value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        if field.name == "options":
            values["options"] = {n: _plain(f"option {n}", v) for n, v in value.items()}
        elif value not in (None, "", (), {}):
            values[field.name] = _plain(field.name, value)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    # A list of numbers or words in one line; there are no line ends within texts.
    one_line = lambda m: "[" + re.sub(r"\n\s*", " ", m[1].strip()) + "]"
    return re.sub(r"\[(\n[^\[\]{}]*\n\s*)\]", one_line, text) + "\n"


def record_from_json(text: str | bytes) -> ModelRecord:
    """Return the record that `record_to_json` wrote.

    Files of earlier versions hold no more than a model and its options. Raises ValueError for a
    record of a later version, and for anything that is none.
    """
    values = parse_json(text)
    if not isinstance(values, Mapping) or values.get("library") != LIBRARY:
        raise ValueError(f"it is not the record of a model of {LIBRARY}")
    return record_from_values(values)


def record_from_values(values: Mapping[str, Any]) -> ModelRecord:
    """Return the record that a JSON object holds; errors as in `record_from_json`."""
    version = values.get("format", FORMAT)
    if type(version) is not int or version > FORMAT:
        raise ValueError(
            f"it is a record of format {shown(version)}, which a later version of {LIBRARY} wrote; "
            f"this one reads up to {FORMAT}"
        )
    model, options = model_and_options(values)
    if "format" not in values:
        options = options_before_records(model, options)
    kinds = {"task": str, "class_names": list, "weights": str, "step": int, "licence": str}
    kinds |= {"figures": Mapping, "source": str, "run": Mapping, "preprocessing": Mapping}
    given = {}
    for name, kind in kinds.items():
        if values.get(name) is None:
            continue
        given[name] = values[name]
        if not isinstance(given[name], kind) or isinstance(given[name], bool):
            raise ValueError(f"its {name!r} is {shown(given[name])}; expected {_SAID[kind]}")
    if given.get("weights", "raw") not in ("raw", "ema"):
        raise ValueError(f"its 'weights' is {shown(given['weights'])}; expected 'raw' or 'ema'")
    given["class_names"] = _class_names(given.get("class_names", ()))
    given["figures"] = _figures(given.get("figures", {}))
    given["run"] = rich(given.get("run", {}))
    if "preprocessing" in given:
        given["preprocessing"] = _preprocessing(given["preprocessing"])
    return ModelRecord(model=model, options=options, **given)


def read_record(path: pathlib.Path) -> ModelRecord | None:
    """Return the record in a ``config.json``; None where it is another program's.

    Raises ValueError, naming the file, for a damaged one, or one of a later version.
    """
    try:
        values = parse_json(path)
        if not isinstance(values, Mapping):
            raise ValueError("it is not a JSON object")
        if values.get("library") == LIBRARY:
            return record_from_values(values)
        return timm_record(values)
    except ValueError as error:
        raise ValueError(f"{path} is not the configuration of a model: {error}") from error


def timm_record(values: Mapping[str, Any]) -> ModelRecord | None:
    """Return what a ``config.json`` of timm tells of a network of this zoo; None of others."""
    name, told = values.get("architecture"), values.get("pretrained_cfg")
    if name not in MODELS or not isinstance(told, Mapping):
        return None
    card = MODELS[name].card
    size, share = told.get("input_size", (3, *card.input_size)), told.get("crop_pct", 0.875)
    try:
        preprocessing = Preprocessing(
            input_size=tuple(size)[1:],
            resize=math.floor(min(size[1:]) / share),
            interpolation=told.get("interpolation", "bilinear"),
            mean=tuple(told.get("mean", card.mean)),
            std=tuple(told.get("std", card.std)),
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"its 'pretrained_cfg' is not one of timm: {error}") from error
    count = values.get("num_classes")
    return ModelRecord(
        model=name,
        options={"num_classes": count} if type(count) is int and count != 1000 else {},
        task=MODELS[name].task,
        preprocessing=preprocessing,
        class_names=_class_names(values.get("label_names") or ()),
        licence=str(told.get("license", "")),
        source=str(told.get("origin_url", "")),
    )


def model_and_options(values: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the name of a model and its options, as a file's object tells them.

    Raises ValueError if one is missing or of another type.
    """
    model, options = values.get("model"), values.get("options")
    if not isinstance(model, str):
        raise ValueError(f"its 'model' is {shown(model)}; expected the name of a model")
    if not isinstance(options, Mapping):
        raise ValueError(f"its 'options' is {shown(options)}; expected an object")
    return checked_name(model), _options(options)


def record_before_records(model: Any, options: Any) -> ModelRecord:
    """Return the record of a file of an earlier version: a name, and options as a text in JSON.

    Raises ValueError for anything else.
    """
    model = checked_name(model)
    if not isinstance(options, str):
        raise ValueError(f"the options of a model are {shown(options)}; expected them as text")
    return ModelRecord(
        model=model, options=options_before_records(model, _options(parse_json(options)))
    )


def checked_name(name: Any) -> str | None:
    """Return the name of a model that a file tells, or None; ValueError if it can be none."""
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]{0,99}", name)):
        raise ValueError(f"its model is {quoted(name)}; expected the name of a model")
    return name


def rich(value: Any, depth: int = 0) -> Any:
    """Return a value of JSON with sequences as tuples, and whole numbers as keys.

    JSON writes ``{2: (1, 3)}`` as ``{"2": [1, 3]}``. Raises ValueError for what is nested deeply.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"the options of a model are nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        number = re.compile(r"0|-?[1-9]\d{0,8}")
        return {int(k) if number.fullmatch(k) else k: rich(v, depth + 1) for k, v in value.items()}
    return tuple(rich(v, depth + 1) for v in value) if isinstance(value, list) else value


_SAID = {str: "a text", list: "a list", int: "a number", Mapping: "an object"}


def _options(found: Any) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise ValueError(f"the options of a model are {shown(found)}; expected a JSON object")
    for name in found:
        if not (name.isidentifier() and len(name) < 100):
            raise ValueError(f"an option is called {quoted(name)}")
    return current_options({name: rich(value) for name, value in found.items()})


def _class_names(found: Any) -> tuple[str, ...]:
    for name in found:
        if not isinstance(name, str):
            raise ValueError(f"it names a class {shown(name)}; expected a text")
    return tuple(found)


def _figures(found: Mapping[str, Any]) -> dict[str, float]:
    for name, value in found.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"its figure {quoted(name)} is {shown(value)}; expected a number")
    return {name: float(value) for name, value in found.items()}


def _preprocessing(found: Mapping[str, Any]) -> Preprocessing:
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    unknown = sorted(found.keys() - known)
    if unknown:
        raise ValueError(f"its 'preprocessing' has {quoted(unknown[0])}, which is unknown")
    try:
        return Preprocessing(**rich(dict(found)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"its 'preprocessing' is not one: {error}") from error


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(name, v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(name, item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{name}={value!r} can not be written to a file")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.dtype) or (isinstance(value, type) and hasattr(value, "dtype")):
        return np.dtype(value).name
    if isinstance(value, type(jnp.float32)) or (
        isinstance(value, type) and issubclass(value, np.generic)
    ):
        return jnp.dtype(value).name
    raise TypeError(f"{name}={value!r} can not be written to a file")
