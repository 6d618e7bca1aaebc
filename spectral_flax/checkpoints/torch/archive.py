# SPDX-License-Identifier: Apache-2.0
"""The two containers that ``torch.save`` writes: a zip archive, and pickles in a row (legacy)."""

import contextlib
import io
import pathlib
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import numpy as np

from spectral_flax.checkpoints.budget import Budget, size_of
from spectral_flax.checkpoints.torch import caffe2
from spectral_flax.checkpoints.torch.pickle_machine import read_pickle
from spectral_flax.checkpoints.torch.tensors import (
    BUILDERS,
    MAX_STORAGE_KEY,
    Source,
    Storage,
    storage_of,
)
from spectral_flax.files import open_regular
from spectral_flax.messages import message, shown

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_DATA_PICKLE = 1 << 27
RECORD = "spectral_flax.json"  # what this library keeps beside a state dict; PyTorch passes over it
MAX_RECORD = 1 << 24
CHUNK = 1 << 20
# A checkpoint within a zip archive: how its name ends, and how much larger than its packed bytes.
CHECKPOINTS, MAX_EXPANSION = (".ckpt", ".pth", ".pt", ".pth.tar"), 20
# Memory of an entry of a zip archive's directory, in terms of its bytes (46 and the name).
ENTRY_TIMES = 16


class Archive(Source, Protocol):
    """An open file: the object that was saved, and access to the storages it refers to."""

    root: Any
    foreign: set[str]  # classes of objects that were left unbuilt
    record: bytes | None


@contextlib.contextmanager
def open_archive(path: pathlib.Path) -> Iterator[Archive]:
    """Open a PyTorch file of either kind; say what a file of another kind is."""
    with open_regular(path) as file, _opened(file) as archive:
        yield archive


@contextlib.contextmanager
def _opened(file: BinaryIO, *, within: bool = False) -> Iterator[Archive]:
    size = size_of(file)
    budget = Budget(size)
    head = file.read(512)
    file.seek(0)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        with _zip_file(file, budget) as archive:
            inner = None if within else _checkpoint_within(archive)
            if inner is None:
                yield ZipArchive(archive, size, budget)
                return
            with tempfile.TemporaryFile() as copy, archive.open(inner) as packed:
                shutil.copyfileobj(packed, copy, CHUNK)
                copy.seek(0)
                with _opened(copy, within=True) as nested:
                    yield nested
        return
    reason = _not_torch(head, size)
    if reason:
        raise ValueError(reason)
    yield LegacyArchive(file, size, budget)


def _checkpoint_within(archive: zipfile.ZipFile) -> zipfile.ZipInfo | None:
    """Return the only checkpoint of an archive that was published around it, such as big-lama.zip.

    Raises:
      ValueError: there are several, or it is out of proportion to the archive.
    """
    infos = archive.infolist()
    if any(info.filename.endswith("data.pkl") for info in infos):
        return None
    found = [info for info in infos if info.filename.endswith(CHECKPOINTS)]
    if len(found) > 1:
        names = ", ".join(shown(info.filename) for info in found[:5])
        raise ValueError(f"it is a zip archive of several checkpoints ({names}); unpack it")
    if found and found[0].file_size > MAX_EXPANSION * (found[0].compress_size + 1):
        raise ValueError(f"its {shown(found[0].filename)} expands out of proportion")
    return found[0] if found else None


def _zip_file(file: BinaryIO, budget: Budget) -> zipfile.ZipFile:
    counted = _Counted(file, budget)
    try:
        archive = zipfile.ZipFile(counted)
    except (zipfile.BadZipFile, NotImplementedError, OSError, struct.error) as error:
        reason = f"it is a damaged or truncated zip archive ({message(error, 200)})"
        raise ValueError(reason) from error
    counted.times = 0
    return archive


class _Counted:
    """A file whose reads are charged: the directory of a zip archive is built as it is opened."""

    def __init__(self, file: BinaryIO, budget: Budget):
        self.file, self.budget, self.times = file, budget, ENTRY_TIMES
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        self.budget.spend(self.times * max(count, 0))
        return self.file.read(count)

    def close(self) -> None:
        self.file.close()


def _not_torch(head: bytes, size: int) -> str | None:
    """Return what a file seems to be that is neither a zip archive nor a pickle."""
    text = head.lstrip().lower()
    if size == 0:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "it is a web page (a download that failed?), not a checkpoint"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return "it is a safetensors file; give it the suffix .safetensors"
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return f"it is {kind}"
    if head[257:262] == b"ustar":
        return "it is a tar archive"
    if head[:1] != b"\x80":
        return f"it begins with {head[:12]!r}, which neither of torch.save's formats does"
    return None


_MAGICS = {
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed by gzip; decompress it first",
    b"BZh": "compressed by bzip2; decompress it first",
    b"\xfd7zXZ": "compressed by xz; decompress it first",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"{": "a JSON text",
}


class ZipArchive:
    """``NAME/data.pkl`` and one stored entry ``NAME/data/KEY`` a storage (PyTorch 1.6 on)."""

    def __init__(self, archive: zipfile.ZipFile, size: int, budget: Budget):
        self.archive, self.budget, self.foreign = archive, budget, set()
        entries = archive.infolist()
        self.entries = {info.filename: info for info in entries}
        if len(self.entries) != len(entries):
            raise ValueError("its archive has two entries of one name")
        if sum(info.compress_size for info in entries) > size:
            raise ValueError("the entries of its archive overlap")
        if all(info.CRC == 0 for info in entries if info.file_size):
            for info in entries:  # saved with checksums switched off
                info.CRC = None
        pickles = [
            name for name in self.entries if name == "data.pkl" or name.endswith("/data.pkl")
        ]
        if len(pickles) != 1:
            raise ValueError(self._not_torch(pickles))
        self.prefix = pickles[0].removesuffix("data.pkl")
        if f"{self.prefix}constants.pkl" in self.entries:
            raise ValueError("it is a TorchScript program; save the state dict of the module")
        info = self.entries[pickles[0]]
        if info.file_size > MAX_DATA_PICKLE:
            raise ValueError(f"its data.pkl has {info.file_size} bytes")
        order = self.entries.get(f"{self.prefix}byteorder")
        if order and order.file_size > 16:
            raise ValueError(f"its byte order has {order.file_size} bytes")
        written = self._bytes(order).tobytes() if order else b"little"
        if written not in (b"little", b"big"):
            raise ValueError(f"its byte order is {shown(written)}, neither little nor big")
        self.swapped = written != _native_order()
        record = self.entries.get(f"{self.prefix}{RECORD}")
        if record and record.file_size > MAX_RECORD:
            raise ValueError(f"its {RECORD} has {record.file_size} bytes")
        self.record = self._bytes(record).tobytes() if record else None
        storages: dict[str, Storage] = {}
        budget.spend(info.file_size)
        file = io.BytesIO(self._bytes(info).tobytes())
        self.root = read_pickle(
            file, BUILDERS, lambda pid: storage_of(pid, storages), budget, self.foreign
        )
        if file.read(1):
            raise ValueError("its data.pkl goes on after its end")

    def _not_torch(self, pickles: list[str]) -> str:
        if pickles:
            return f"its archive holds {len(pickles)} files named data.pkl"
        if any(name.endswith(".npy") for name in self.entries):
            return "it is a NumPy archive (.npz)"
        names = ", ".join(map(shown, list(self.entries)[:5])) or "nothing"
        return f"it is a zip archive without data.pkl (it holds {names})"

    def read(self, storage: Storage) -> np.ndarray:
        name = f"{self.prefix}data/{storage.key}"
        info = self.entries.get(name)
        if info is None:
            raise ValueError(f"its archive lacks the entry {shown(name)}")
        if info.file_size != storage.nbytes:
            raise ValueError(
                f"the entry {shown(name)} has {info.file_size} bytes, not {storage.nbytes}"
            )
        return self._bytes(info)

    def _bytes(self, info: zipfile.ZipInfo) -> np.ndarray:
        """Return the bytes of an entry, whose length the caller has counted."""
        name = shown(info.filename)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"its entry {name} is compressed by method "
                f"{info.compress_type}; torch.save stores entries"
            )
        if info.flag_bits & 1:
            raise ValueError(f"its entry {name} is encrypted")
        data = np.empty(info.file_size, np.uint8)
        try:
            with self.archive.open(info) as file:
                _fill(data, file)
                if file.read(1):  # also makes the end known, where the checksum is compared
                    raise ValueError(f"its entry {name} is longer than it says")
        except _ZIP_DAMAGE as error:
            raise ValueError(f"its entry {name} is damaged ({message(error, 200)})") from error
        return data


_ZIP_DAMAGE = (zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError)
_ZIP_DAMAGE += (OverflowError, EOFError, struct.error)


class LegacyArchive:
    """Pickles in a row, then the storages, each its length and its bytes (until PyTorch 1.5)."""

    def __init__(self, file: BinaryIO, size: int, budget: Budget):
        self.file, self.record, reader = file, None, _Bounded(file, size)
        self.budget, self.foreign = budget, set()
        storages: dict[str, Storage] = {}

        def load():
            return read_pickle(
                reader, BUILDERS, lambda pid: storage_of(pid, storages), budget, self.foreign
            )

        first = load()
        if caffe2.is_blobs(first):
            caffe2.check(first)
            if file.tell() != size:
                raise ValueError(f"{size - file.tell()} bytes follow its blobs")
            self.root, self.offsets, self.swapped = first, {}, False
            return
        if not isinstance(first, int) or first != MAGIC:
            raise ValueError("it is a plain Python pickle, not written by torch.save")
        protocol = load()
        if protocol != PROTOCOL:
            raise ValueError(f"it is not of protocol {PROTOCOL}, the only one there ever was")
        load()  # sizes and byte order of the machine; storages are little-endian on every one
        self.root, keys = load(), load()
        texts = isinstance(keys, list) and len(keys) == len(storages)
        # Long texts are not even compared; a storage's own is short.
        texts = texts and all(isinstance(key, str) and len(key) <= MAX_STORAGE_KEY for key in keys)
        if not texts or set(keys) != storages.keys():
            raise ValueError("its list of storages is not that of its tensors")
        self.swapped = _native_order() != b"little"
        self.offsets: dict[str, int] = {}
        position = file.tell()
        for key in keys:
            storage = storages[key]
            file.seek(position)
            header = file.read(8)
            length = struct.unpack("<q", header)[0] if len(header) == 8 else -1
            if length * storage.itemsize != storage.nbytes:
                raise ValueError(f"the storage {key} is truncated or of another length")
            self.offsets[key] = position + 8
            position += 8 + storage.nbytes
            if position > size:
                raise ValueError(f"it is truncated: {position - size} bytes are missing, or more")
        if position != size:
            raise ValueError(f"{size - position} bytes follow its last storage")

    def read(self, storage: Storage) -> np.ndarray:
        data = np.empty(storage.nbytes, np.uint8)
        self.file.seek(self.offsets[storage.key])
        _fill(data, self.file)
        return data


class _Bounded:
    """A file that is never asked for more bytes than it has, whatever length a pickle states."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline(1 << 16)


def _fill(data: np.ndarray, file) -> None:
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        piece = view[start : start + CHUNK]
        filled = 0
        while filled < len(piece):
            read = file.read(len(piece) - filled)
            if not read:
                raise ValueError("it is truncated")
            piece[filled : filled + len(read)] = read
            filled += len(read)


def _native_order() -> bytes:
    return b"little" if np.little_endian else b"big"
