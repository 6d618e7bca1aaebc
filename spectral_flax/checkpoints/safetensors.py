# SPDX-License-Identifier: Apache-2.0
"""Safetensors files: a JSON header and the arrays' bytes, nothing else."""

import json
import math
import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from spectral_flax.checkpoints.earlier import with_current_names
from spectral_flax.checkpoints.json_text import parse_json
from spectral_flax.checkpoints.torch.budget import Budget, size_of
from spectral_flax.checkpoints.weights import (
    Weights,
    checked_name,
    options_from_json,
    options_to_json,
)
from spectral_flax.files import new_file, open_regular
from spectral_flax.messages import message, quoted, shown

DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "BOOL": np.bool_},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "C64": np.complex64},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
}
MAX_HEADER = 100_000_000  # as in the format's own implementation
FORMAT = "spectral_flax"  # metadata "format" of files whose names are ours; "pt" is PyTorch's


def write_safetensors(
    path: str | os.PathLike, weights: Weights, *, overwrite: bool = False
) -> None:
    """Write arrays with the model's name and options in the metadata; all or nothing.

    Raises FileExistsError if there is a file, and ``overwrite`` is not set.
    """
    metadata = {"format": FORMAT if weights.names == "flax" else "pt"}
    if weights.model is not None:
        metadata |= {"model": weights.model, "options": options_to_json(weights.options)}
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    # The widest numbers first, so that every array lies at a multiple of its item size.
    arrays = {name: np.asarray(value) for name, value in weights.tensors.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    position = 0
    for name in order:
        array = arrays[name]
        dtype = array.dtype.newbyteorder("=") if array.dtype.kind in "iufc" else array.dtype
        if dtype not in names:
            raise TypeError(f"tensors[{name!r}] has dtype {array.dtype}, which safetensors lacks")
        end = position + array.nbytes
        header[name] = dict(
            dtype=names[dtype], shape=list(array.shape), data_offsets=[position, end]
        )
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with new_file(path, overwrite=overwrite) as draft, open(draft, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.ascontiguousarray(arrays[name]).reshape(-1)
            if array.dtype.kind in "iufc":
                array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            file.write(array.view(np.uint8))


def read_safetensors(path: str | os.PathLike) -> Weights:
    """Return the arrays of a file, its model and options where it is one of ours.

    Raises ValueError, naming the file, for anything but an intact file.
    """
    path = pathlib.Path(path)
    try:
        with open_regular(path) as file:
            return _read(file, size_of(file))
    except ValueError as error:
        told = message(error)
        raise ValueError(f"{path} can not be read as a safetensors file: {told}") from error


def _read(file, size: int) -> Weights:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise ValueError("it is truncated, or another kind of file")
    Budget(size).spend(32 * length)  # what "[],[],[]" takes when it is read
    header = parse_json(file.read(length), limit=MAX_HEADER)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    model = _model(header.pop("__metadata__", {}))
    entries = [(*_checked(name, entry), name) for name, entry in header.items()]
    tensors, position = {}, 0
    for begin, end, dtype, shape, name in sorted(entries, key=lambda entry: entry[:2]):
        if begin != position:
            raise ValueError(f"the bytes of {quoted(name)} begin at {begin}, expected {position}")
        position = end
        if 8 + length + end > size:
            raise ValueError(f"it is truncated: {8 + length + end - size} bytes are missing")
        data = np.empty(end - begin, np.uint8)
        if file.readinto(data) != len(data):
            raise ValueError("it is truncated")
        array = data.view(dtype).reshape(shape)
        tensors[name] = array if np.little_endian else array.byteswap()
    if 8 + length + position != size:
        raise ValueError(f"{size - 8 - length - position} bytes follow its last array")
    tensors = {name: tensors[name] for name in header}
    if model["names"] == "flax":
        tensors = with_current_names(tensors)
    return Weights(tensors, **model)


def _model(metadata: Any) -> dict[str, Any]:
    """Return whose names a file has, and the model and options that its metadata tell."""
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"its __metadata__ is {shown(metadata)}; expected texts by name")
    if metadata.get("format") != FORMAT:
        return {"names": "torch"}
    return {
        "names": "flax",
        "model": checked_name(metadata.get("model")),
        "options": options_from_json(metadata.get("options", "{}")),
    }


def _checked(name: str, entry: Any) -> tuple:
    """Return first and last byte, dtype and shape of an array, if they agree."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise ValueError(f"{quoted(name)} is not described by dtype, shape and data_offsets")
    if dtype not in DTYPES:
        raise ValueError(f"{quoted(name)} has the unknown dtype {quoted(dtype, 20)}")
    whole = all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end))
    dtype = np.dtype(DTYPES[dtype])
    if not whole or len(shape) > 64 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"the shape of {quoted(name)} does not agree with its length in bytes")
    return begin, end, dtype, tuple(shape)
