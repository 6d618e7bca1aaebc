# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl``: one line for each logged step and split of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectral_flax.files import is_gone
from spectral_flax.messages import reason
from train.errors import UserError
from train.report.lines import lines_at

Entry = dict[str, Any]
_BEGINNING = b'{"step": '  # of every line that a run writes


class Metrics:
    """The entries of a run that goes on from ``step``, and of what it does from there.

    A resumed run repeats the steps after its checkpoint, so entries past ``step`` are dropped on
    opening, and so is a line that a kill cut short. Lines that are no entries stay as they are,
    before the others. What a full disk refuses is written with the next entry.

    Raises:
      UserError: the file cannot be read, or its directory is gone.
    """

    def __init__(self, path: Path, step: int, log: Callable[[str], None]):
        self.path, self.log = path, log
        self.complete = True  # the file holds all entries
        self.entries: dict[tuple[int, str], Entry] = {}
        self.foreign: list[bytes] = []
        try:
            self.lines = lines_at(path)
            content = self.lines.read()
        except OSError as error:
            raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error
        *lines, last = content.split(b"\n")
        cut_short = last.startswith(_BEGINNING[: len(last)]) and _value(last) is None
        for line in lines if cut_short else (*lines, last):
            entry = _entry(line)
            if entry is None:
                self.foreign.append(line)
            elif entry["step"] <= step:
                self.entries[entry["step"], entry["split"]] = entry
        if self.foreign:
            log(f"{path} has {len(self.foreign)} line(s) that no run writes; they stay")
        if content:
            self._attempt(self._rewrite)

    def write(self, entry: Entry) -> None:
        """Add a line, in place of the one with the same step and split if there is one."""
        key = entry["step"], entry["split"]
        known = key in self.entries
        self.entries[key] = entry
        if known or not self.complete:
            self._attempt(self._rewrite)
        else:
            self._attempt(lambda: self.lines.append(_line(entry)))

    def of(self, split: str) -> list[Entry]:
        """Return the entries of a split in the order of steps."""
        return [self.entries[key] for key in sorted(self.entries) if key[1] == split]

    def _rewrite(self) -> None:
        foreign = [line + b"\n" for line in self.foreign]
        self.lines.rewrite([*foreign, *map(_line, self.entries.values())])

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if is_gone(self.path.parent):
                raise UserError(
                    f"the work directory {self.path.parent} has been removed while the run was in "
                    "it; nothing more can be kept there"
                ) from error
            if self.complete:
                self.log(f"cannot write to {self.path}: {reason(error)}; trying again later")
            self.complete = False
        else:
            self.complete = True


def _line(entry: Entry) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _value(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        return None


def _entry(line: bytes) -> Entry | None:
    """Return what a line of ours holds: a step, a split and numbers; None of any other."""
    entry = _value(line)
    if not isinstance(entry, dict):
        return None
    step, split = entry.get("step"), entry.get("split")
    values = [value for name, value in entry.items() if name not in ("step", "split")]
    numbers = all(type(value) in (int, float) for value in values)
    return entry if type(step) is int and type(split) is str and numbers else None
