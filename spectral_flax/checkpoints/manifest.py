# SPDX-License-Identifier: Apache-2.0
"""Manifest of the files of a checkpoint: the size of each and a checksum.

That is the CRC-32 of a local file, and of an object in a bucket the MD5 that the bucket tells with
its name, so that nothing is read again. Either is verified wherever the files are copied to.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable
from typing import Any

from spectral_flax import buckets

NAME = "files.json"
Known = dict[str, tuple[int, str | None]]  # size, and MD5 where it is told, by name


def write(folder: "buckets.Path") -> None:
    """List size and checksum of every file in the folders of ``folder``, in a file of it."""
    listed = {
        name: [size, _crc32(folder / name) if md5 is None else md5]
        for name, (size, md5) in _files(folder).items()
    }
    text = json.dumps(listed)
    (folder / NAME).write_text(json.dumps({"files": text, "crc32": zlib.crc32(text.encode())}))


def fault(folder: "buckets.Path") -> str | None:
    """Name the first file that is not as listed, or that is missing; None if all are as they were.

    A folder without a list, as other programs write them, has no fault.
    """
    target = folder / NAME
    if not target.exists():
        return None
    try:
        listed = json.loads(target.read_text())
        intact = zlib.crc32(listed["files"].encode()) == listed["crc32"]
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        return f"its list of files, {NAME}, cannot be read"
    listed, found = json.loads(listed["files"]), _files(folder)
    for name, (size, checksum) in listed.items():
        if name not in found:
            return f"the file {name} is missing"
        if found[name][0] != size or _checksum(folder / name, checksum, found[name][1]) != checksum:
            return f"the file {name} has another content than was written"
    return None


def _files(folder: "buckets.Path") -> Known:
    if buckets.is_remote(folder):
        return {name: about for name, about in buckets.listed(folder).items() if "/" in name}
    files = (path for path in sorted(folder.glob("*/**/*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, None) for path in files}


def _checksum(path: "buckets.Path", expected: Any, told: str | None) -> int | str:
    """Return the checksum of a file, of the kind of ``expected``."""
    if isinstance(expected, int):
        return _crc32(path)
    return told or _md5(path)


def _crc32(path: "buckets.Path") -> int:
    checksum = 0
    for chunk in _chunks(path):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _md5(path: "buckets.Path") -> str:
    checksum = hashlib.md5(usedforsecurity=False)
    for chunk in _chunks(path):
        checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()


def _chunks(path: "buckets.Path") -> Iterable[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
