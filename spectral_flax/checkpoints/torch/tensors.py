# SPDX-License-Identifier: Apache-2.0
"""PyTorch tensors as a pickle describes them, checked, and the NumPy arrays they become."""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np

from spectral_flax.checkpoints.budget import Budget
from spectral_flax.checkpoints.torch.pickle_values import Foreign, Global
from spectral_flax.messages import quoted, shown

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
# Storages without an array form, and the bytes of an element.
_OTHER_STORAGES = {"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}
_OTHER_STORAGES |= {"ComplexHalf": 4}
MAX_DIMENSIONS = 64
MAX_STORAGE_KEY = 64  # characters


class Storage(NamedTuple):
    """A block of numbers in the file; ``dtype`` is None where the tensors alone know it."""

    key: str
    dtype: np.dtype | None
    nbytes: int
    kind: str
    itemsize: int


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Unread:
    """A tensor that has no dense array here, and why."""

    reason: str


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
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
    if not isinstance(pid, tuple) or len(pid) > 6:
        raise ValueError("its pickle refers to something that is not a storage")
    match pid:
        case ("storage", Global(name), str(key), str(), int(count), *view):
            kind = name.rpartition(".")[2].removesuffix("Storage")
        case _:
            raise ValueError("its pickle refers to something that is not a storage")
    dtype = np.dtype(DTYPES[STORAGES[kind]]) if kind in STORAGES else None
    if dtype is None and kind not in ("Untyped", "_Untyped", *_OTHER_STORAGES):
        raise ValueError(f"it has storages of type {shown(name)}, which has no array form")
    if view and view[0] is not None:
        raise ValueError(f"the storage {shown(key)} is a view of a storage (PyTorch before 0.4)")
    fine = len(key) <= MAX_STORAGE_KEY and "/" not in key and "\\" not in key
    if isinstance(count, bool) or not 0 <= count < 2**48 or not fine:
        raise ValueError(f"the storage {quoted(key)} has {shown(count)} elements")
    itemsize = dtype.itemsize if dtype else _OTHER_STORAGES.get(kind, 1)
    storage = Storage(key, dtype, count * itemsize, kind, itemsize)
    if storages.setdefault(key, storage) != storage:
        raise ValueError(f"the storage {key} has two types or lengths")
    return storages[key]


def _tensor(args: tuple) -> Tensor | Unread:
    """``torch._utils._rebuild_tensor_v2`` (or without its last arguments), as data."""
    storage, offset, shape, strides, *rest = _between(4, 7, args)
    if isinstance(storage, Storage) and storage.dtype is None:
        if storage.kind in _OTHER_STORAGES:
            return Unread(f"it has a storage of type {storage.kind}, which has no array form")
        raise ValueError("a tensor of an untyped storage does not say its dtype")
    dtype = storage.dtype if isinstance(storage, Storage) else None
    return _view(storage, offset, shape, strides, dtype, rest[2] if len(rest) > 2 else None)


def _tensor_of_dtype(args: tuple) -> Tensor | Unread:
    """``torch._utils._rebuild_tensor_v3``: the dtypes that have no storage type of their own."""
    storage, offset, shape, strides, _, _, dtype, *rest = _between(7, 8, args)
    if not isinstance(dtype, Global):
        raise ValueError(f"its pickle is damaged (a tensor of dtype {shown(dtype)})")
    name = dtype.name.removeprefix("torch.")
    if name not in DTYPES:
        return Unread(f"it is of dtype {shown(name)}, which has no array form")
    return _view(storage, offset, shape, strides, np.dtype(DTYPES[name]), rest[0] if rest else None)


def _between(least: int, most: int, args: tuple) -> tuple:
    if not least <= len(args) <= most:
        raise ValueError(f"its pickle is damaged (a tensor is described by {len(args)} values)")
    return args


def _view(storage, offset, shape, strides, dtype, flags) -> Tensor | Unread:
    pair = isinstance(shape, tuple) and isinstance(strides, tuple)
    if pair and max(len(shape), len(strides)) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has a shape of {len(shape)} dimensions")
    numbers = (offset, *shape, *strides) if pair else (None,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if not isinstance(storage, Storage) or not whole:
        told = "a tensor's shape, strides or storage is not what torch.save writes"
        raise ValueError(f"its pickle is damaged ({told})")
    if isinstance(flags, dict) and (flags.get("conj") or flags.get("neg")):
        return Unread("it is lazily conjugated or negated; save tensor.resolve_conj() instead")
    return Tensor(storage, offset, shape, strides, dtype)


def _inner(args: tuple) -> Any:
    """A parameter, or a tensor of another device: the tensor it holds."""
    return _between(1, 8, args)[0]


def _from_type(args: tuple) -> Any:
    """A tensor of a subclass, as the tensor it is."""
    function, _, inner, _ = _between(4, 4, args)
    name = function.name if isinstance(function, Global) else ""
    if name not in _TENSORS or not isinstance(inner, tuple):
        return Foreign("torch._tensor._rebuild_from_type_v2", args)
    return _TENSORS[name](inner)


def _size(args: tuple) -> tuple:
    if len(args) != 1 or not isinstance(args[0], tuple):
        raise ValueError("its pickle is damaged (a torch.Size of something else)")
    return args[0]


_TENSORS = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _inner,
    "torch._utils._rebuild_parameter_with_state": _inner,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _inner,
    "torch._utils._rebuild_device_tensor_from_numpy": _inner,
}
BUILDERS = _TENSORS | {"torch.Size": _size, "torch._tensor._rebuild_from_type_v2": _from_type}


class Source(Protocol):
    """An open file, as far as arrays need it."""

    swapped: bool  # whether numbers are in the other byte order than this machine's
    budget: Budget

    def read(self, storage: Storage) -> np.ndarray:
        """Return the bytes of a storage, checked where the container can."""


class Arrays:
    """Makes arrays of the tensors in a file; each storage is read once, when it is first used."""

    def __init__(self, source: Source):
        self.source, self.budget = source, source.budget
        self.buffers: dict[tuple[str, int], np.ndarray] = {}
        self.views: set[str] = set()
        self.dense: dict[str, int] = {}

    def array(self, name: str, tensor: Tensor) -> np.ndarray:
        """Return the tensor as a read-only view of its storage."""
        _check_view(name, tensor)
        self._spend(name, tensor)
        dtype, shape = tensor.dtype, tensor.shape
        if math.prod(shape) == 0:
            array = np.empty(shape, dtype)
        else:
            # Bytes are exchanged within a number; a complex one is two numbers.
            word = dtype.itemsize // (2 if dtype.kind == "c" else 1) if self.source.swapped else 1
            steps = tuple(step * dtype.itemsize for step in tensor.strides)
            offset = tensor.offset * dtype.itemsize
            array = np.ndarray(shape, dtype, self._bytes(tensor.storage, word), offset, steps)
        array.flags.writeable = False
        return array

    def _bytes(self, storage: Storage, word: int) -> np.ndarray:
        key = storage.key, word
        if key not in self.buffers:
            self.budget.spend(storage.nbytes)
            data = self.source.read(storage)
            if word > 1:
                data.view(f"u{word}").byteswap(inplace=True)
            self.buffers[key] = data
        return self.buffers[key]

    def _spend(self, name: str, tensor: Tensor) -> None:
        """Count what a dense copy takes beyond the storage: that of an expanded tensor, or of many.

        The very same view under a second name (tied weights) is free, unless it is expanded.
        """
        key, available = tensor.storage.key, tensor.storage.nbytes
        size = math.prod(tensor.shape) * tensor.dtype.itemsize
        # As a text, because the hashes of numbers can be made equal on purpose.
        view = f"{key} {tensor.dtype} {tensor.offset} {tensor.shape} {tensor.strides}"
        if view in self.views and size <= available:
            return
        before = self.dense.get(key, 0)
        self.dense[key] = before + size
        excess = max(before + size - available, 0) - max(before - available, 0)
        if excess > self.budget.left:
            raise ValueError(
                f"{quoted(name)} of shape {shown(tensor.shape)} is spread over "
                f"{available} bytes only"
            )
        self.budget.spend(excess)
        self.budget.spend(len(view) + 64 * len(tensor.shape) + 512)  # the array, and this text
        self.views.add(view)


def _check_view(name: str, tensor: Tensor) -> None:
    shape, strides, itemsize = tensor.shape, tensor.strides, tensor.dtype.itemsize
    numbers = (*shape, *strides, tensor.offset)
    if len(shape) != len(strides) or min(numbers) < 0:
        raise ValueError(
            f"{quoted(name)} has shape {shown(shape)}, strides {shown(strides)}, "
            f"offset {shown(tensor.offset)}"
        )
    if max(numbers) >= 2**48 or math.prod(max(n, 1) for n in shape) * itemsize >= 2**62:
        raise ValueError(f"{quoted(name)} has the absurd shape {shown(shape)}")
    size = math.prod(shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    available, rest = divmod(tensor.storage.nbytes, itemsize)
    if rest:
        raise ValueError(f"the storage of {quoted(name)} is not a whole number of {tensor.dtype}")
    if size and last >= available:
        raise ValueError(
            f"{quoted(name)} of shape {shown(shape)} reaches element {last} "
            f"of a storage that has {available}"
        )
