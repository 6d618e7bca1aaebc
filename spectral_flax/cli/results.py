# SPDX-License-Identifier: Apache-2.0
"""The inputs that a command names, and its results as tables, JSON or CSV."""

import csv
import glob
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectral_flax.inference.images import SUFFIXES
from spectral_flax.inference.preparation import VIDEOS


def expand(words: Sequence[str]) -> list[str]:
    """Return the files that paths, folders and globs name, each once, in a fixed order.

    Of a folder these are the images and videos in it, at any depth, hidden ones left out. What is
    no glob and does not exist is returned as it is: its reader says so.

    Raises:
      ValueError: a folder or a glob holds none.
    """
    found: list[str] = []
    for word in words:
        if os.path.isdir(word):
            inside = sorted(str(path) for path in pathlib.Path(word).rglob("*") if _is_input(path))
            if not inside:
                raise ValueError(f"the folder {word!r} holds no images and no videos")
            found += inside
        elif not os.path.lexists(word) and glob.has_magic(word):
            inside = sorted(glob.glob(word, recursive=True))
            if not inside:
                raise ValueError(f"no file matches {word!r}")
            found += inside
        else:
            found.append(word)
    return list(dict.fromkeys(found))


def _is_input(path: pathlib.Path) -> bool:
    return path.suffix.lower() in (*SUFFIXES, *VIDEOS) and not path.name.startswith(".")


def print_json(found: Mapping[str, Any]) -> None:
    """Print results by the path of their input, as JSON."""
    print(json.dumps(found, indent=2))


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows as CSV under the names of their columns."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)


def print_shares(found: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """Print a name and a share, from 0 to 1, with its bar, a line each below the path."""
    console = Console()
    for path, best in found.items():
        table = Table(title=Text(path), title_justify="left", show_header=False, box=None)
        for label, share in best:
            table.add_row(Text(label), Bar(1, 0, share, width=30), f"{share:.1%}")
        console.print(table)
