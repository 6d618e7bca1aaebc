# SPDX-License-Identifier: Apache-2.0
"""Lists of files with their labels, and labels as numbers."""

import codecs
import collections
import csv
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from spectral_flax.files import read_bytes
from spectral_flax.messages import quoted, reason, several
from train.errors import UserError
from train.processes import distributed as processes

_NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?")
# No data set has more classes; larger labels are names made of digits.
MOST_CLASSES = 10**6
# Longer marks first: the mark of UTF-16 is the beginning of that of UTF-32.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_list(file: Path, *, log: bool = True) -> tuple[list[str], list[str]]:
    """Return paths and labels of a ``.csv`` or ``.txt``; spaces around them do not count.

    ``log`` names labels that this makes equal on the standard error.

    Raises:
      UserError: the file is no such list; the line is named.
    """
    text = _text(file)
    rows = _csv_rows(file, text) if file.suffix == ".csv" else _plain_rows(text)
    paths, labels, spelled = [], [], collections.defaultdict(set)
    for entry, (line, row) in enumerate(rows, 1):
        if len(row) != 2 or not all(part.strip() for part in row):
            raise UserError(
                f"{str(file)!r}, line {line}, entry {entry}: expected a path and a label"
            )
        path, label = row
        paths.append(path.strip())
        labels.append(label.strip())
        spelled[labels[-1]].add(label)
    if not paths:
        raise UserError(f"{str(file)!r} is empty")
    for label, spellings in spelled.items():
        if log and len(spellings) > 1:
            merged = ", ".join(map(quoted, sorted(spellings)[:5]))
            processes.log(f"{str(file)!r}: {merged} are one label, {quoted(label)}", sys.stderr)
    return paths, labels


def numbered(
    labels: Sequence[str], known: Sequence[str], file: Path, num_classes: int | None
) -> tuple[list[int], list[str]]:
    """Return the labels of ``file`` as numbers, and the names of the classes.

    ``known`` are the labels of the training list. If all of them are whole numbers, however
    written, they are those of the classes; else they are names, in the order of the alphabet, or of
    their values where all are numbers.
    """
    values = {name: _value(name) for name in {*known, *labels}}
    if all(values[name] is not None and values[name].is_integer() for name in set(known)):
        highest = int(max(values[name] for name in known))
        if highest >= MOST_CLASSES:
            raise UserError(
                f"{str(file)!r}: the training list has the label {highest}; expected numbers of "
                f"classes, from 0 and below {MOST_CLASSES}, or names"
            )
        count = num_classes or highest + 1
        wrong = [x for x in labels if not _is_class(values[x], count)]
        if wrong:
            raise UserError(
                f"{str(file)!r} has labels outside 0 ... {count - 1}: {several(sorted(set(wrong)))}"
            )
        return [int(values[label]) for label in labels], [str(i) for i in range(count)]
    ordered = all(values[name] is not None for name in known)
    classes = sorted(set(known), key=lambda name: (values[name] if ordered else 0, name))
    number = {name: i for i, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise UserError(
            f"{str(file)!r} has classes that the training list lacks: {several(unknown)}"
        )
    if num_classes is not None and num_classes != len(classes):
        raise UserError(f"--data.num-classes is {num_classes}; the list has {len(classes)} classes")
    return [number[label] for label in labels], classes


def _is_class(value: float | None, count: int) -> bool:
    return value is not None and value.is_integer() and 0 <= value < count


def _value(label: str) -> float | None:
    return float(label) if _NUMBER.fullmatch(label) else None


def _text(file: Path) -> str:
    """Return the text of a file in UTF-8, or in what its byte order mark says."""
    try:
        content = read_bytes(file)
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {reason(error)}") from error
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
        fault = text.find("\0")
        wrong = "a character of value 0"
    except UnicodeDecodeError as error:
        text = content[: error.start].decode(encoding)
        fault, wrong = len(text), f"the byte 0x{content[error.start]:02x}"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if fault >= 0:
        line = 1 + text.count("\n", 0, fault)
        raise UserError(
            f"{str(file)!r}, line {line}: {wrong} is not text in {encoding.upper()}; "
            "save the list as UTF-8"
        )
    return text


def _plain_rows(text: str) -> list[tuple[int, list[str]]]:
    lines = enumerate(text.split("\n"), 1)
    return [(number, line.strip().rsplit(maxsplit=1)) for number, line in lines if line.strip()]


def _csv_rows(file: Path, text: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = []
    try:
        names = [name.strip() for name in next(reader, [])]
        lacking = {"path", "label"} - set(names)
        if lacking:
            raise UserError(
                f"{str(file)!r} has no column {' nor '.join(sorted(lacking))}; its first line is "
                f"{quoted(','.join(names))}, expected path,label"
            )
        columns = names.index("path"), names.index("label")
        for row in reader:
            if any(part.strip() for part in row):
                rows.append((reader.line_num, [row[i] if i < len(row) else "" for i in columns]))
    except csv.Error as error:
        raise UserError(f"{str(file)!r}, line {reader.line_num}: {error}") from error
    return rows
