# SPDX-License-Identifier: Apache-2.0
"""Which files a data set has and what their labels are: folders per class, and lists."""

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spectral_flax.images import SUFFIXES
from train.data.source import Split
from train.errors import UserError

IMAGES = SUFFIXES
VIDEOS = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg")

_FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """Paths below ``folder`` with their labels, kept as flat arrays: there may be millions."""

    folder: str
    paths: np.ndarray
    labels: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(bytes(self.paths[index])))

    def load(self, index: int) -> tuple[str, int]:
        return self.name(index), int(self.labels[index])


def class_folders(
    root: Path, split: Split, suffixes: Sequence[str], num_classes: int | None = None
) -> Listing:
    """List ``root/train/CLASS/...`` or the same under ``val``, ``validation`` or ``test``.

    Classes are numbered in the order of their names in ``train``.
    """
    layout = "expected train/CLASS/FILES and val/CLASS/FILES (or test/) in it"
    if not root.is_dir():
        raise UserError(f"there is no folder {str(root)!r}; {layout}")
    train = root / "train"
    folder = next((root / name for name in _FOLDERS[split] if (root / name).is_dir()), None)
    if folder is None or not train.is_dir():
        missing = "train/" if not train.is_dir() else "val/ or test/"
        raise UserError(f"{str(root)!r} has no {missing}; {layout}")
    classes = _folders_in(train)
    unknown = sorted(set(_folders_in(folder)) - set(classes))
    if unknown:
        raise UserError(f"{str(folder)!r} has classes that train/ lacks: {_some(unknown)}")
    if num_classes is not None and num_classes != len(classes):
        raise UserError(
            f"--data.num-classes is {num_classes}; {str(train)!r} has {len(classes)} folders"
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        for place, _, files in os.walk(folder / name, followlinks=True):
            found = [file for file in files if file.lower().endswith(tuple(suffixes))]
            paths += [os.path.relpath(os.path.join(place, file), folder) for file in found]
            labels += [label] * len(found)
    if not paths:
        raise UserError(f"{str(folder)!r} holds no files that end in {', '.join(suffixes)}")
    paths = np.array([os.fsencode(path) for path in paths])
    order = np.lexsort((paths, labels))  # the order of a directory is its file system's affair
    return Listing(str(folder), paths[order], np.array(labels, np.int32)[order], len(classes))


def list_file(root: Path, split: Split, num_classes: int | None = None) -> Listing:
    """Read ``root/train.csv`` (or ``.txt``), in a test ``val`` or ``test``.

    A ``.csv`` has a first line that names its columns, ``path`` and ``label`` among them; a line
    of a ``.txt`` is a path, a space and a label. Paths are relative to the list. Labels are
    numbers from 0, or names, which are numbered in the order of the alphabet.
    """
    layout = (
        "expected train and val (or test) lists in it: .csv with the columns path,label or .txt"
    )
    if not root.is_dir():
        raise UserError(f"there is no folder {str(root)!r}; {layout}")
    train = _find_list(root, "train", layout)
    _, known = _read_list(train)
    file = _find_list(root, split, layout)
    paths, labels = _read_list(file)
    numbers, count = _numbered(labels, known, file, num_classes)
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        raise UserError(f"{str(file)!r} names {len(missing)} missing file(s): {_some(missing)}")
    encoded = np.array([os.fsencode(path) for path in paths])
    return Listing(str(root), encoded, np.array(numbers, np.int32), count)


def _find_list(root: Path, split: Split, layout: str) -> Path:
    names = [f"{name}{suffix}" for name in _FOLDERS[split] for suffix in (".csv", ".txt")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(f"{str(root)!r} has none of {', '.join(names)}; {layout}")


def _read_list(file: Path) -> tuple[list[str], list[str]]:
    if file.suffix == ".csv":
        with file.open(newline="") as text:
            reader = csv.DictReader(text)
            lacking = {"path", "label"} - set(reader.fieldnames or ())
            if lacking:
                raise UserError(
                    f"{str(file)!r} has no column {' nor '.join(sorted(lacking))}; its first line "
                    f"is {','.join(reader.fieldnames or ())!r}, expected path,label"
                )
            rows = [(row["path"], row["label"]) for row in reader]
    else:
        lines = file.read_text().splitlines()
        rows = [tuple(line.rsplit(maxsplit=1)) for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(row):
            raise UserError(f"{str(file)!r}, entry {number}: expected a path and a label")
    if not rows:
        raise UserError(f"{str(file)!r} is empty")
    paths, labels = zip(*rows, strict=True)
    return list(paths), list(labels)


def _numbered(
    labels: list[str], known: list[str], file: Path, num_classes: int | None
) -> tuple[list[int], int]:
    """Return the labels of ``file`` as numbers, and how many classes there are."""
    if all(label.strip().lstrip("-").isdigit() for label in known):
        count = num_classes or max(map(int, known)) + 1
        wrong = [x for x in labels if not (x.strip().isdigit() and int(x) < count)]
        if wrong:
            raise UserError(
                f"{str(file)!r} has labels outside 0 ... {count - 1}: {_some(sorted(set(wrong)))}"
            )
        return [int(label) for label in labels], count
    classes = {name: i for i, name in enumerate(sorted(set(known)))}
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise UserError(f"{str(file)!r} has classes that the training list lacks: {_some(unknown)}")
    if num_classes is not None and num_classes != len(classes):
        raise UserError(f"--data.num-classes is {num_classes}; the list has {len(classes)} classes")
    return [classes[label] for label in labels], len(classes)


def _folders_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
