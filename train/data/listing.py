# SPDX-License-Identifier: Apache-2.0
"""Files and labels of a data set, from a folder per class or from lists."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from spectral_flax import buckets
from spectral_flax.inference.images import SUFFIXES
from spectral_flax.messages import several
from train.data.label_list import numbered, read_list
from train.data.source import Split
from train.errors import UserError

IMAGES = SUFFIXES

_FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}

# Folders and files that systems and programs leave behind, besides those whose names start with a
# dot; compared in lower case.
_LEFT_BEHIND = {
    *("__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "lost+found"),
    *("$recycle.bin", "system volume information", "thumbs.db", "desktop.ini", "__pycache__"),
    *("network trash folder", "temporary items"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """Paths below ``folder`` with their labels, kept as flat arrays: there may be millions."""

    folder: str
    paths: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(bytes(self.paths[index])))

    def load(self, index: int) -> tuple[str, int]:
        return self.name(index), int(self.labels[index])


def class_folders(
    root: "buckets.Path", split: Split, suffixes: Sequence[str], num_classes: int | None = None
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
    present = set(_folders_in(folder))
    unknown = sorted(present - set(classes))
    if unknown:
        raise UserError(f"{str(folder)!r} has classes that train/ lacks: {several(unknown)}")
    if num_classes is not None and num_classes != len(classes):
        raise UserError(
            f"--data.num-classes is {num_classes}; {str(train)!r} has {len(classes)} folders"
        )
    found = _files_of(folder, present, tuple(suffixes))
    paths = [path for name in classes for path in found.get(name, ())]
    labels = [label for label, name in enumerate(classes) for _ in found.get(name, ())]
    if not paths:
        raise UserError(f"{str(folder)!r} holds {_what_else(folder, suffixes)}; {layout}")
    paths = np.array([os.fsencode(path) for path in paths])
    order = np.lexsort((paths, labels))  # file systems list a directory in any order
    return Listing(str(folder), paths[order], np.array(labels, np.int32)[order], classes)


def list_file(root: "buckets.Path", split: Split, num_classes: int | None = None) -> Listing:
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
    known = read_list(_find_list(root, "train", layout), log=split == "train")[1]
    file = _find_list(root, split, layout)
    paths, labels = read_list(file, log=split != "train")
    numbers, names = numbered(labels, known, file, num_classes)
    missing = sorted(set(paths) - files_there(root, paths))
    if missing:
        raise UserError(
            f"{str(file)!r} names {len(missing)} missing file(s): {several(missing, limit=300)}"
        )
    encoded = np.array([os.fsencode(path) for path in paths])
    return Listing(str(root), encoded, np.array(numbers, np.int32), names)


def files_there(folder: "buckets.Path", names: Iterable[str]) -> set[str]:
    """Return those of ``names``, relative to ``folder``, that files or objects have."""
    if buckets.is_remote(folder):  # a list of all costs less than a question for each
        there = buckets.listed(folder)
        return {name for name in names if name.removeprefix("./") in there}
    return {name for name in names if _is_file(folder / name)}


def _is_file(path: Path) -> bool:
    """Return whether the file exists; False too for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def files_below(folder: "buckets.Path", suffixes: Sequence[str]) -> list["buckets.Path"]:
    """Return the files that end in ``suffixes``, at any depth, sorted; not what systems left."""
    if buckets.is_remote(folder):
        names = buckets.listed(folder)
    else:
        found = (path for path in sorted(folder.rglob("*")) if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in found]
    chosen = (name for name in names if name.lower().endswith(tuple(suffixes)))
    return [folder / name for name in chosen if not any(map(left_behind, name.split("/")))]


def _find_list(root: "buckets.Path", split: Split, layout: str) -> Path:
    names = [f"{name}{suffix}" for name in _FOLDERS[split] for suffix in (".csv", ".txt")]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(f"{str(root)!r} has none of {', '.join(names)}; {layout}")


def _files_of(
    folder: "buckets.Path", classes: Iterable[str], suffixes: tuple[str, ...]
) -> dict[str, list[str]]:
    """Return the files of each class, relative to the folder of all classes."""
    if not buckets.is_remote(folder):
        of = lambda name: _files_below(folder / name, folder, suffixes)
        return {name: [os.path.relpath(path, folder) for path in of(name)] for name in classes}
    found: dict[str, list[str]] = {name: [] for name in classes}
    for name in buckets.listed(folder):
        first, *rest = name.split("/")
        usual = not any(map(left_behind, rest))
        if first in found and rest and usual and name.lower().endswith(suffixes):
            found[first].append(name)
    return found


def _files_below(folder: Path, root: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files below ``root/CLASS``, links followed.

    Each folder is looked into once. A link to a folder that the link itself or ``root`` is in leads
    round in a circle, or into other classes, and is left out.
    """
    waiting, seen = [str(folder)], set()
    while waiting:
        place = waiting.pop()
        here = os.path.realpath(place)
        if here in seen:
            continue
        seen.add(here)
        links = []
        for entry in _entries(place):
            if _is_folder(entry):
                if not entry.is_symlink():
                    waiting.append(entry.path)
                elif not _leads_round(entry, here, root):
                    links.append(entry.path)
            elif entry.name.lower().endswith(suffixes) and _is_regular(entry):
                yield entry.path
        waiting[:0] = links  # the folders that are here go first


def _leads_round(entry: os.DirEntry, *places: str | Path) -> bool:
    """Return whether a link leads to one of ``places`` or to a folder above one."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return any(os.path.commonpath((os.path.realpath(p), target)) == target for p in places)


def _is_folder(entry: os.DirEntry) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_regular(entry: os.DirEntry) -> bool:
    """Tell files from pipes and devices, which never end; a dangling link fails when it is read."""
    if not entry.is_symlink():  # a directory tells without a look at each file
        return entry.is_file()
    return os.path.isfile(entry.path) or not os.path.exists(entry.path)


def _entries(folder: str | Path) -> list[os.DirEntry]:
    """Return the entries of a folder that users made, sorted by name."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list {str(folder)!r}: {error.strerror}") from error
    return [entry for entry in found if not left_behind(entry.name)]


def left_behind(name: str) -> bool:
    """Return whether a folder or file is hidden, or one that operating systems make."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def _folders_in(folder: "buckets.Path") -> list[str]:
    if buckets.is_remote(folder):
        return [name for name in buckets.folders_in(folder) if not left_behind(name)]
    entries = _entries(folder)
    return [e.name for e in entries if _is_folder(e) and not _leads_round(e, folder)]


def _what_else(folder: "buckets.Path", suffixes: Sequence[str]) -> str:
    """Describe what a folder holds instead of classes with files."""
    remote = buckets.is_remote(folder)
    names = buckets.listed(folder, depth=1) if remote else [e.name for e in _entries(folder)]
    flat = [name for name in names if name.lower().endswith(tuple(suffixes))]
    if not flat:
        return f"no files that end in {', '.join(suffixes)}"
    return (
        f"{len(flat)} file(s) of no class, such as {several(flat[:1])}: move each into a folder of "
        "its class, or name files and labels in lists, for --data.name image_list or video_list"
    )
