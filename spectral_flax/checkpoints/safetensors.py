# SPDX-License-Identifier: Apache-2.0
"""Safetensors files, with the model's record in the metadata.

The library `safetensors` writes them and reads their arrays. Headers are checked here before: the
library takes an entry that is named twice, and its errors tell neither what is missing nor where.
"""

import math
import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from spectral_flax.checkpoints.budget import Budget
from spectral_flax.checkpoints.earlier import with_current_names
from spectral_flax.checkpoints.json_text import parse_json
from spectral_flax.checkpoints.records import (
    record_before_records,
    record_from_json,
    record_to_json,
)
from spectral_flax.checkpoints.weights import Weights
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
    path: str | os.PathLike[str], weights: Weights, *, overwrite: bool = False
) -> None:
    """Write arrays with the model's record in the metadata; all or nothing.

    Raises:
      FileExistsError: there is a file, and ``overwrite`` is not set.
      TypeError: the format lacks a dtype.
    """
    metadata = {"format": FORMAT if weights.names == "flax" else "pt"}
    if weights.model is not None:
        metadata["record"] = record_to_json(weights.record)
    arrays = {name: np.asarray(value, order="C") for name, value in weights.tensors.items()}
    known = {np.dtype(dtype) for dtype in DTYPES.values()}
    for name, array in arrays.items():
        if array.dtype.newbyteorder("=") not in known:
            raise TypeError(f"tensors[{name!r}] has dtype {array.dtype}, which safetensors lacks")
    with new_file(path, overwrite=overwrite) as draft:
        draft.write_bytes(save(arrays, metadata))  # its own writer hides errors of the system


def read_safetensors(path: str | os.PathLike[str]) -> Weights:
    """Return the arrays of a file, and the record of their model where it is one of ours.

    Raises ValueError, naming the file, for anything but an intact file.
    """
    path = pathlib.Path(path)
    try:
        with open_regular(path) as file:
            data = file.read()
        names, model = _checked_header(data)
        found = dict(deserialize(data))
    except (ValueError, SafetensorError) as error:
        told = message(error)
        raise ValueError(f"{path} can not be read as a safetensors file: {told}") from error
    arrays = {
        name: np.frombuffer(found[name]["data"], DTYPES[found[name]["dtype"]]) for name in names
    }
    tensors = {name: a.reshape(found[name]["shape"]) for name, a in arrays.items()}
    if model["names"] == "flax":
        tensors = with_current_names(tensors)
    return Weights(tensors, **model)


def _checked_header(data: bytes) -> tuple[list[str], dict[str, Any]]:
    """Return the names of a file's arrays, and the model that its header tells.

    Raises ValueError if the header is damaged, or describes other data.
    """
    size, length = len(data), int.from_bytes(data[:8], "little")
    if size < 8 or length > min(size - 8, MAX_HEADER):
        raise ValueError("it is truncated, or another kind of file")
    Budget(size).spend(32 * length)  # what "[],[],[]" takes when it is read
    header = parse_json(data[8 : 8 + length], limit=MAX_HEADER)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    model = _model(header.pop("__metadata__", {}))
    position = 0
    for begin, end, name in sorted((*_extent(name, e), name) for name, e in header.items()):
        if begin != position:
            raise ValueError(f"the bytes of {quoted(name)} begin at {begin}, expected {position}")
        position = end
    missing = 8 + length + position - size
    if missing > 0:
        raise ValueError(f"it is truncated: {missing} bytes are missing")
    if missing < 0:
        raise ValueError(f"{-missing} bytes follow its last array")
    return list(header), model


def _model(metadata: Any) -> dict[str, Any]:
    """Return whose names a file has, and the record that its metadata hold."""
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"its __metadata__ is {shown(metadata)}; expected texts by name")
    names = "flax" if metadata.get("format") == FORMAT else "torch"
    if "record" in metadata and (names == "flax" or f'"{FORMAT}"' in metadata["record"]):
        return {"names": names, "record": record_from_json(metadata["record"])}
    if names == "torch":
        return {"names": names}
    record = record_before_records(metadata.get("model"), metadata.get("options", "{}"))
    return {"names": names, "record": record}


def _extent(name: str, entry: Any) -> tuple[int, int]:
    """Return the first byte of an array and the one after its last, if dtype and shape agree."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise ValueError(f"{quoted(name)} is not described by dtype, shape and data_offsets")
    if dtype not in DTYPES:
        raise ValueError(f"{quoted(name)} has the unknown dtype {quoted(dtype, 20)}")
    whole = all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end))
    itemsize = np.dtype(DTYPES[dtype]).itemsize
    if not whole or len(shape) > 64 or end - begin != math.prod(shape) * itemsize:
        raise ValueError(f"the shape of {quoted(name)} does not agree with its length in bytes")
    return begin, end
