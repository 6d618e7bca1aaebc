# SPDX-License-Identifier: Apache-2.0
"""Writer of a state dict in PyTorch's zip format, without PyTorch."""

import pathlib
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

from spectral_flax.checkpoints.torch.archive import RECORD
from spectral_flax.checkpoints.torch.tensors import DTYPES, STORAGES
from spectral_flax.files import new_file

ALIGNMENT = 64  # of a storage in the file, so that torch.load(mmap=True) can use it in place
_DTYPE_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_STORAGE_NAMES = {name: f"{kind}Storage" for kind, name in STORAGES.items()}
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def write_torch(
    path: str | pathlib.Path,
    tensors: Mapping[str, np.ndarray],
    *,
    record: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write named arrays to ``path`` as ``torch.save(OrderedDict(...))`` would.

    ``torch.load`` reads the file, also with ``weights_only=True`` and ``mmap=True``. Arrays may be
    anything NumPy takes as an array, in any dtype PyTorch has (bfloat16 and float8 from ml_dtypes).
    ``record`` is a text that is kept beside them, where PyTorch does not look.
    The file appears complete or not at all. Raises TypeError for a dtype that PyTorch lacks, and
    FileExistsError if there is a file and ``overwrite`` is not set.
    """
    described = {str(name): np.asarray(value) for name, value in tensors.items()}
    data = _pickle(described)  # before the file is begun: it may refuse a dtype
    with (
        new_file(path, overwrite=overwrite) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive,
    ):
        _add(archive, "data.pkl", data)
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(described.values()):
            array = np.ascontiguousarray(array).reshape(-1)
            if not np.little_endian or array.dtype.byteorder == ">":
                array = array.astype(array.dtype.newbyteorder("<"))
            _add(archive, f"data/{key}", array.view(np.uint8))
        _add(archive, "version", b"3\n")
        if record is not None:
            _add(archive, RECORD, record.encode())


def _add(archive: zipfile.ZipFile, name: str, data) -> None:
    """Add an entry whose data begin at a multiple of `ALIGNMENT`."""
    info = zipfile.ZipInfo(f"archive/{name}")
    data = memoryview(data)
    # A header is 30 bytes, the name and the extra fields; zipfile adds one of 20 beyond 2 GiB.
    zip64 = data.nbytes * 1.05 > zipfile.ZIP64_LIMIT
    start = archive.fp.tell() + 30 + len(info.filename) + 20 * zip64 + 4
    padding = -start % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    info.file_size = data.nbytes
    with archive.open(info, "w") as file:
        for begin in range(0, data.nbytes, 1 << 20):
            file.write(data[begin : begin + (1 << 20)])


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return the pickle (protocol 2) of the ordered dictionary of tensors."""
    parts = [b"\x80\x02", _ORDERED_DICT, b"("]
    for key, (name, array) in enumerate(tensors.items()):
        parts += [_text(name), _tensor(name, str(key), array)]
    return b"".join([*parts, b"u."])


def _tensor(name: str, key: str, array: np.ndarray) -> bytes:
    dtype = _DTYPE_NAMES.get(
        array.dtype.newbyteorder("=") if array.dtype.kind in "iufc" else array.dtype
    )
    if dtype is None:
        raise TypeError(f"tensors[{name!r}] has dtype {array.dtype}, which PyTorch lacks")
    typed = dtype in _STORAGE_NAMES
    storage = b"".join(
        [
            b"(" + _text("storage"),
            f"ctorch\n{_STORAGE_NAMES[dtype]}\n".encode()
            if typed
            else b"ctorch.storage\nUntypedStorage\n",
            _text(key) + _text("cpu") + _integer(array.size if typed else array.nbytes) + b"tQ",
        ]
    )
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    view = storage + _integer(0) + _integers(array.shape) + _integers(strides)
    function = (
        b"ctorch._utils\n_rebuild_tensor_v2\n"
        if typed
        else (b"ctorch._utils\n_rebuild_tensor_v3\n")
    )
    end = b"\x89" + _ORDERED_DICT + (b"" if typed else f"ctorch\n{dtype}\n".encode())
    return function + b"(" + view + end + b"tR"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    if 0 <= number < 256:
        return b"K" + bytes([number])
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _integers(numbers) -> bytes:
    return b"(" + b"".join(_integer(int(n)) for n in numbers) + b"t"
