# SPDX-License-Identifier: Apache-2.0
"""The list of a folder's files, by which damage to any of them shows."""

import json
import os
import zlib
from pathlib import Path

NAME = "files.json"


def write(folder: Path) -> None:
    """List size and CRC-32 of every file in ``folder``, in a file of it; once, if it has none."""
    target = folder / NAME
    if target.exists():
        return
    text = json.dumps(_files(folder))
    draft = target.with_suffix(".draft")
    draft.write_text(json.dumps({"files": text, "crc32": zlib.crc32(text.encode())}))
    os.replace(draft, target)


def fault(folder: Path) -> str | None:
    """Name the first file that is not as listed, or that is missing; None if all are as they were.

    A folder without a list, whose writer was killed before it came to that, has no fault.
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
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in names
        if path.name not in (NAME, f"{Path(NAME).stem}.draft")
    }


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
