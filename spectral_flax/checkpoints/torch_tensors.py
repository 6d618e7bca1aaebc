# SPDX-License-Identifier: Apache-2.0
"""PyTorch's tensors as data: what a pickle says of them, checked, and the arrays they become."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from spectral_flax.checkpoints.pickle_data import Foreign, Global, checked_key

DTYPES = {
    **{"float64": np.float64, "float32": np.float32, "float16": np.float16, "bool": np.bool_},
    **{"int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8},
    **{"uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8},
    **{"complex128": np.complex128, "complex64": np.complex64, "bfloat16": ml_dtypes.bfloat16},
    **{"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2},
    **{"float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz},
}
STORAGES = {
    **{"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"},
    **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
    **{"Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64"},
}
# An expanded tensor (stride zero) may be far larger than the file that holds it.
MAX_EXPANDED_BYTES = 1 << 26


class Storage(NamedTuple):
    """A block of numbers in the file; ``dtype`` is None where the tensors alone know it."""

    key: str
    dtype: np.dtype | None
    nbytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype


def storage_of(pid: Any, storages: dict[str, Storage]) -> Any:
    """Return the storage that a persistent id refers to, the same for every mention."""
    if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
        return pid[1]  # a class of a module that was saved whole, with its source
    match pid:
        case ("storage", Global(name), str(key), str(), int(count), *view):
            kind = name.rpartition(".")[2].removesuffix("Storage")
        case _:
            raise ValueError("its pickle refers to something that is not a storage")
    if kind in ("Untyped", "_Untyped"):
        dtype = None
    elif kind in STORAGES:
        dtype = np.dtype(DTYPES[STORAGES[kind]])
    else:
        raise ValueError(f"it has storages of type {name}, which has no array form")
    if view and view != [None]:
        raise ValueError(f"the storage {key} is a view of a storage (PyTorch before 0.4)")
    if isinstance(count, bool) or not 0 <= count < 2**48 or "/" in key or "\\" in key:
        raise ValueError(f"the storage {key!r} has {count} elements")
    storage = Storage(key, dtype, count * (dtype.itemsize if dtype else 1))
    if storages.setdefault(key, storage) != storage:
        raise ValueError(f"the storage {key} has two types or lengths")
    return storages[key]


def _tensor(args: tuple) -> Tensor:
    """``torch._utils._rebuild_tensor_v2`` (or without its last arguments), as data."""
    storage, offset, shape, strides, *rest = _at_least(4, args)
    if isinstance(storage, Storage) and storage.dtype is None:
        raise ValueError("a tensor of an untyped storage does not say its dtype")
    flags = rest[2] if len(rest) > 2 else None
    return _view(storage, offset, shape, strides, storage.dtype, flags)


def _tensor_of_dtype(args: tuple) -> Tensor:
    """``torch._utils._rebuild_tensor_v3``: the dtypes that have no storage type of their own."""
    storage, offset, shape, strides, _, _, dtype, *rest = _at_least(7, args)
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, Global) else repr(dtype)
    if name not in DTYPES:
        raise ValueError(f"it has tensors of dtype {name}, which has no array form")
    return _view(storage, offset, shape, strides, np.dtype(DTYPES[name]), rest[0] if rest else None)


def _at_least(count: int, args: tuple) -> tuple:
    if len(args) < count:
        raise ValueError(f"its pickle is damaged (a tensor is described by {len(args)} values)")
    return args


def _view(storage, offset, shape, strides, dtype, flags) -> Tensor:
    numbers = (offset, *shape, *strides)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if not isinstance(storage, Storage) or not whole or type(shape) is not type(strides):
        raise ValueError("a tensor's shape, strides or storage is not what torch.save writes")
    if isinstance(flags, dict) and (flags.get("conj") or flags.get("neg")):
        raise ValueError("it has a lazily conjugated tensor; save tensor.resolve_conj() instead")
    return Tensor(storage, offset, tuple(shape), tuple(strides), dtype)


def _inner(args: tuple) -> Any:
    """A parameter, or a subclass of a tensor: the tensor it holds."""
    return _at_least(1, args)[0]


def _from_type(args: tuple) -> Any:
    function, _, inner, *_ = _at_least(3, args)
    name = function.name if isinstance(function, Global) else ""
    if name not in BUILDERS:
        return Foreign(name or "torch._tensor._rebuild_from_type_v2", args)
    return BUILDERS[name](inner)


def _ordered(args: tuple) -> dict:
    pairs = args[0] if args else ()
    return {checked_key(key): value for key, value in pairs}


BUILDERS = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda args: {},
    "torch.Size": lambda args: tuple(args[0]),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _inner,
    "torch._utils._rebuild_parameter_with_state": _inner,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}


def as_array(
    name: str,
    tensor: Tensor,
    read: Callable[[Storage], np.ndarray],
    swapped: bool,
    buffers: dict[tuple[str, int], np.ndarray],
) -> np.ndarray:
    """Return the tensor as a read-only view of its storage.

    ``read`` gives the bytes of a storage; it is called on the first use of each, which ``buffers``
    remembers. ``swapped`` says that they are in the other byte order than this machine's.
    """
    _check_view(name, tensor)
    dtype, shape = tensor.dtype, tensor.shape
    if math.prod(shape) == 0:
        array = np.empty(shape, dtype)
    else:
        # Bytes are exchanged within a number; a complex one is two numbers.
        word = dtype.itemsize // (2 if dtype.kind == "c" else 1) if swapped else 1
        key = (tensor.storage.key, word)
        if key not in buffers:
            buffers[key] = _exchanged(read(tensor.storage), word)
        steps = tuple(step * dtype.itemsize for step in tensor.strides)
        offset = tensor.offset * dtype.itemsize
        array = np.ndarray(shape, dtype, buffers[key], offset, steps)
    array.flags.writeable = False
    return array


def _exchanged(data: np.ndarray, word: int) -> np.ndarray:
    return data.view(f"u{word}").byteswap().view(np.uint8) if word > 1 else data


def _check_view(name: str, tensor: Tensor) -> None:
    shape, strides, itemsize = tensor.shape, tensor.strides, tensor.dtype.itemsize
    numbers = (*shape, *strides, tensor.offset)
    if len(shape) != len(strides) or len(shape) > 64 or min(numbers) < 0:
        raise ValueError(f"{name!r} has shape {shape}, strides {strides}, offset {tensor.offset}")
    if max(numbers) >= 2**48 or math.prod(max(n, 1) for n in shape) * itemsize >= 2**62:
        raise ValueError(f"{name!r} has the absurd shape {shape}")
    size = math.prod(shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    available, rest = divmod(tensor.storage.nbytes, itemsize)
    if rest:
        raise ValueError(f"the storage of {name!r} is not a whole number of {tensor.dtype}")
    if size and last >= available:
        raise ValueError(
            f"{name!r} of shape {shape} reaches element {last} of a storage that has {available}"
        )
    if size * itemsize > max(4 * tensor.storage.nbytes, MAX_EXPANDED_BYTES):
        raise ValueError(
            f"{name!r} of shape {shape} is spread over {tensor.storage.nbytes} bytes only"
        )
