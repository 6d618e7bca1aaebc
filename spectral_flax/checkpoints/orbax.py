# SPDX-License-Identifier: Apache-2.0
"""Orbax checkpoints as plain dictionaries of arrays by dotted names."""

import dataclasses
import json
import math
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from spectral_flax.checkpoints.budget import Budget
from spectral_flax.checkpoints.earlier import with_current_names
from spectral_flax.checkpoints.records import (
    record_before_records,
    record_from_json,
    record_to_json,
)
from spectral_flax.checkpoints.runs import is_step, run_groups, run_record
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.files import read_small
from spectral_flax.messages import message, quoted, shown
from spectral_flax.models.record import UNKNOWN, ModelRecord, WeightKind

ITEM = "variables"
_ABOUT = "about"
_METADATA = "_METADATA"
_DTYPE = re.compile(r"[<>|](b1|[iuf][1248]|c(8|16))|bool|bfloat16|(u?int|float|complex)[\w]{1,16}")
MAX_JSON = 1 << 24
_CHUNK = 1024  # bytes that TensorStore keeps of a chunk, beside its numbers


def write_orbax(path: str | os.PathLike[str], weights: Weights) -> None:
    """Write the arrays to the new directory ``path``, with the model's record and checksums.

    Raises ValueError if the directory exists. Arrays of JAX are written by the device that has
    them, each process its part.
    """
    path = pathlib.Path(path).absolute()
    about = {
        "names": weights.names,
        "record": record_to_json(weights.record) if weights.model else None,
        "crc32": {name: _checksum(array) for name, array in weights.tensors.items()},
    }
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        items = {
            ITEM: ocp.args.StandardSave(dict(weights.tensors)),
            _ABOUT: ocp.args.JsonSave(about),
        }
        checkpointer.save(path, args=ocp.args.Composite(**items))


def read_orbax(path: str | os.PathLike[str], kind: WeightKind | None = None) -> Weights:
    """Return the arrays in the directory ``path`` as NumPy arrays.

    Understands what `write_orbax` wrote, which is verified by its checksums, one step of a
    training run, and a directory that holds a nested dictionary of arrays (or a state of Flax),
    whose keys are joined by dots. ``kind`` says which parameters of a run: those averaged over
    training, "ema", or the last, "raw"; None: the averaged ones where there are any.
    Raises ValueError, naming the directory, for anything else, and for arrays whose sizes are out
    of proportion to the files': TensorStore would end the process where memory does.
    """
    path = pathlib.Path(path).absolute()
    of_run = is_step(path)
    parts = run_groups(path, kind) if of_run else [ITEM] if (path / ITEM).is_dir() else [""]
    places = [path / part for part in parts]
    if not (places[0] / _METADATA).exists():
        raise ValueError(f"{path} is not the directory of an Orbax checkpoint")
    tensors: dict[str, np.ndarray] = {}
    try:
        budget = Budget(_size(path))
        for place in places:
            for name, array in _arrays(place, budget):
                if name in tensors:
                    raise ValueError(f"{quoted(name)} stands twice in it")
                tensors[name] = array
    except (ValueError, KeyError, TypeError, OSError, RecursionError, OverflowError) as error:
        told = message(error)
        raise ValueError(f"{path} can not be read as an Orbax checkpoint: {told}") from error
    if of_run:
        record = run_record(path, parts)
        return Weights(with_current_names(tensors), record=record)
    about = _described(path / _ABOUT, budget) if (path / _ABOUT).is_dir() else _About()
    for name, checksum in about.crc32.items():
        if name not in tensors or _checksum(tensors[name]) != checksum:
            raise ValueError(f"{path} is damaged: {quoted(name)} is not what was written")
    if about.names == "flax":
        tensors = with_current_names(tensors)
    return Weights(tensors, about.names, about.record)


@dataclasses.dataclass(frozen=True)
class _About:
    """What `write_orbax` tells of the arrays."""

    names: str = "flax"
    record: ModelRecord = UNKNOWN
    crc32: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _described(folder: pathlib.Path, budget: Budget) -> _About:
    try:
        description = _json(folder / "metadata", budget)
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{folder.parent} is damaged: {message(error, 500)}") from error
    match description:
        case {"names": "flax" | "torch" as names, "crc32": dict(sums)} if all(
            type(value) is int for value in sums.values()
        ):
            try:
                return _About(names, _record(description), sums)
            except (ValueError, RecursionError) as error:
                reason = f"its record is unreadable: {message(error, 200)}"
                raise ValueError(f"{folder.parent} is damaged: {reason}") from error
    raise ValueError(f"{folder.parent} is damaged: its description is not one of a model")


def _record(description: Mapping[str, Any]) -> ModelRecord:
    """Return the record; earlier versions wrote a model and its options."""
    if "options" not in description:
        text = description.get("record")
        return ModelRecord() if text is None else record_from_json(text)
    return record_before_records(description.get("model"), description["options"])


def _size(path: pathlib.Path) -> int:
    """Return the bytes of all files below ``path``; refuse what would block or never end."""
    total, pending = 0, [path]
    while pending:
        for entry in os.scandir(pending.pop()):
            if entry.is_dir(follow_symlinks=False):
                pending.append(pathlib.Path(entry.path))
            elif entry.is_file():
                total += entry.stat().st_size
            else:
                raise ValueError(f"{quoted(entry.name)} in it is not a regular file")
    return total


def _json(path: pathlib.Path, budget: Budget) -> Any:
    data = read_small(path, MAX_JSON)
    budget.spend(32 * len(data))  # what "[],[],[]" takes when it is read
    return json.loads(data)


def _arrays(place: pathlib.Path, budget: Budget) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the dotted names and the arrays; a variable of Flax is saved as the entry ``value``."""
    metadata = _json(place / _METADATA, budget)
    match metadata:
        case {"tree_metadata": dict(tree)}:
            pass
        case _:
            raise ValueError(f"its {_METADATA} describes no arrays")
    zarr3 = metadata.get("use_zarr3") is True
    for leaf in tree.values():
        match leaf:
            case {"key_metadata": [*entries], "value_metadata": dict(value)}:
                keys = [entry.get("key") for entry in entries if isinstance(entry, dict)]
            case _:
                raise ValueError(f"its {_METADATA} describes an array without its name or kind")
        if value.get("skip_deserialize") or value.get("value_type") in ("None", "string"):
            continue  # nothing, an empty dictionary, a text
        if not keys or len(keys) != len(entries) or not all(isinstance(key, str) for key in keys):
            raise ValueError(f"its {_METADATA} names an array {shown(keys)}")
        name = ".".join(keys)
        if {"", ".", ".."} & set(name.split("/")) or "\0" in name or len(name) > 4096:
            raise ValueError(f"its {_METADATA} names an array {quoted(name)}")
        array = _array(place, name, zarr3, budget)
        yield ".".join(keys[:-1] if keys[-1] == "value" and keys[:-1] else keys), array


def _array(place: pathlib.Path, name: str, zarr3: bool, budget: Budget) -> np.ndarray:
    """Read one array, once its description has been found to be in proportion to the files."""
    base = {"driver": "file", "path": f"{place}/"}
    if (place / "manifest.ocdbt").exists():
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    else:
        store = {"driver": "file", "path": f"{place / name}/"}
    driver, file = ("zarr3", "zarr.json") if zarr3 else ("zarr", ".zarray")
    description = tensorstore.KvStore.open(store).result().read(file).result().value
    if not description:
        raise ValueError(f"it lacks the array {quoted(name)}")
    budget.spend(32 * len(description))
    dtype = json.loads(description).get("data_type" if zarr3 else "dtype")
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):  # else opening may fill memory
        raise ValueError(f"{quoted(name)} is of dtype {quoted(dtype)}, which holds no numbers")
    spec = {"driver": driver, "kvstore": store}
    array = tensorstore.open(spec, read=True, open=True).result()
    dtype = np.dtype(array.dtype.numpy_dtype)
    if "blosc" in json.dumps(array.spec().to_json().get("metadata", {})):
        raise ValueError(f"{quoted(name)} is compressed by blosc, which Orbax does not use")
    layout = array.chunk_layout
    read, written = layout.read_chunk.shape or (), layout.write_chunk.shape or ()
    total = math.prod(array.shape) * dtype.itemsize
    chunk = math.prod(read) * dtype.itemsize  # is made whole, whatever the array's shape
    chunks = math.prod(-(-n // max(c, 1)) for n, c in zip(array.shape, read, strict=True))
    shard = math.prod(-(-w // max(c, 1)) for w, c in zip(written, read, strict=True))
    if max(total, chunk, _CHUNK * chunks, _CHUNK * shard) > budget.left:
        raise ValueError(
            f"{quoted(name)} of shape {shown(array.shape)} in chunks of {shown(tuple(read))} "
            f"is out of proportion to the {budget.size} bytes of its files"
        )
    budget.spend(total + _CHUNK * chunks)
    return np.asarray(array.read().result())


def _checksum(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
