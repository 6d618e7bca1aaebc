# SPDX-License-Identifier: Apache-2.0
"""Lines kept one by one: appended to a local file, or written to a bucket in parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from spectral_flax import buckets
from spectral_flax.files import new_file, read_bytes

_NAME = "{:06}.jsonl"
PART = 1 << 16  # bytes from which a part takes no further line


class Lines(Protocol):
    """Lines of bytes, each with its end."""

    def read(self) -> bytes:
        """Return the whole content; nothing if there is none."""

    def append(self, line: bytes) -> None:
        """Add a line, which a kill after this leaves in place."""

    def rewrite(self, lines: Sequence[bytes]) -> None:
        """Replace all lines."""


def lines_at(path: "buckets.Path") -> Lines:
    """Return the lines kept at ``path``: in a file, in a bucket the objects below that name."""
    is_copy = not buckets.is_remote(path) and (path / _NAME.format(0)).exists()
    return Parts(path) if is_copy or buckets.is_remote(path) else File(path)


class File:
    """Lines of a local file."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def append(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line)

    def rewrite(self, lines: Sequence[bytes]) -> None:
        with new_file(self.path, overwrite=True) as draft:
            draft.write_bytes(b"".join(lines))


class Parts:
    """Lines of ``000000.jsonl`` and so on in a folder, of which only the last is ever written anew.

    A bucket does not append. To write the object of all lines anew at each of them would cost the
    square of their number; a part of bounded size costs no more than its size.
    """

    def __init__(self, folder: "buckets.Path"):
        self.folder, self.number, self.last = folder, 0, b""

    def read(self) -> bytes:
        contents = [read_bytes(self.folder / name) for name in self._names()]
        self.number, self.last = max(len(contents) - 1, 0), contents[-1] if contents else b""
        return b"".join(contents)

    def append(self, line: bytes) -> None:
        if len(self.last) >= PART:
            self.number, self.last = self.number + 1, b""
        self.last += line
        self._write(self.number, self.last)

    def rewrite(self, lines: Sequence[bytes]) -> None:
        parts = [b""]
        for line in lines:
            if len(parts[-1]) >= PART:
                parts.append(b"")
            parts[-1] += line
        for number, content in enumerate(parts):
            self._write(number, content)
        for name in self._names()[len(parts) :]:
            (self.folder / name).unlink()
        self.number, self.last = len(parts) - 1, parts[-1]

    def _names(self) -> list[str]:
        if buckets.is_remote(self.folder):
            return sorted(buckets.listed(self.folder))
        return sorted(path.name for path in self.folder.glob("*.jsonl"))

    def _write(self, number: int, content: bytes) -> None:
        path = self.folder / _NAME.format(number)
        if buckets.is_remote(path):
            buckets.write_bytes(path, content)
        else:
            with new_file(path, overwrite=True) as draft:
                draft.write_bytes(content)
