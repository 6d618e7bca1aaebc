# SPDX-License-Identifier: Apache-2.0
"""Arrays of ``.npz`` files, in memory that is limited by the size of the file."""

import math
import zipfile
from collections.abc import Sequence

import numpy as np

from spectral_flax import buckets
from spectral_flax.messages import reason
from train.errors import UserError

# Bytes that arrays may take whatever the file's size; above, a multiple of that size.
FREE = 200 * 2**20
_GROWTH = 64


def read_npz(file: "buckets.Path", names: Sequence[str], layout: str) -> list[np.ndarray]:
    """Return the arrays ``names`` of a file; ``layout`` describes the expected folder.

    Raises:
      UserError: the file is not there or not whole, or lacks an array, or one is of objects or far
        larger than the file.
    """
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{str(file)!r} is no file; {layout}")
        with buckets.local_copy(file) as copy, zipfile.ZipFile(copy) as archive:
            lacking = {f"{name}.npy" for name in names} - set(archive.namelist())
            if lacking:
                missing = " nor ".join(sorted(name.removesuffix(".npy") for name in lacking))
                raise UserError(f"{str(file)!r} has no array {missing}")
            left = max(FREE, _GROWTH * copy.stat().st_size)
            arrays = []
            for name in names:
                arrays.append(_array(archive, f"{name}.npy", left))
                left -= arrays[-1].nbytes
            return arrays
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {str(file)!r}; {layout}") from error
    except Exception as error:  # of the readers of zip files and of arrays
        raise UserError(f"{str(file)!r} cannot be read ({reason(error)}); {layout}") from error


def _array(archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    """Read one array whose header agrees with the size of the entry."""
    about = archive.getinfo(name)
    if about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not use")
    with archive.open(name) as entry:
        shape, dtype, start = _header(entry)
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or start + size != about.file_size:
            held = about.file_size - start
            raise ValueError(f"{name} says {dtype}{list(shape)}; it holds {held} bytes")
        if size > most:
            raise ValueError(f"{name} grows to {size} bytes, {_GROWTH} times the file")
    with archive.open(name) as entry:
        array = np.lib.format.read_array(entry, allow_pickle=False)
        if entry.read(1):  # also has the checksum compared
            raise ValueError(f"{name} goes on behind its end")
    return array


def _header(entry) -> tuple[tuple[int, ...], np.dtype, int]:
    version = np.lib.format.read_magic(entry)
    readers = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}
    if version not in readers:
        raise ValueError(f"an array file of version {version}")
    shape, _, dtype = getattr(np.lib.format, readers[version])(entry)
    if dtype.hasobject:
        raise ValueError(f"an array of {dtype}; expected numbers")
    return shape, dtype, entry.tell()
