# SPDX-License-Identifier: Apache-2.0
"""CRC-32 manifest of the files of a checkpoint."""

import json
import zlib
from pathlib import Path

NAME = "files.json"


def write(folder: Path) -> None:
    """List size and CRC-32 of every file in the folders of ``folder``, in a file of it."""
    text = json.dumps(_files(folder))
    (folder / NAME).write_text(json.dumps({"files": text, "crc32": zlib.crc32(text.encode())}))


def fault(folder: Path) -> str | None:
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
    for name, expected in listed.items():
        if name not in found:
            return f"the file {name} is missing"
        if found[name] != expected:
            return f"the file {name} has another content than was written"
    return None


def _files(folder: Path) -> dict[str, list[int]]:
    """Return size and CRC-32 by name."""
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in sorted(folder.glob("*/**/*"))
        if path.is_file()
    }


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
