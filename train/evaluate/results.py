# SPDX-License-Identifier: Apache-2.0
"""Files of an evaluation: metrics as JSON, a table of classes, a confusion matrix."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spectral_flax.files import exists, new_file
from spectral_flax.messages import reason
from train.errors import UserError
from train.evaluate.runs_and_weights import Evaluation
from train.report.plots import class_names, draw_confusion

FILES = ("figures.json", "classes.csv", "confusion.npz", "confusion.png")


def check_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder for results that holds some already, or that cannot be made."""
    there = [name for name in FILES if exists(folder / name)]
    if there and not overwrite:
        raise UserError(
            f"--output {str(folder)!r} holds {', '.join(there)} already; give another folder, or "
            "--overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --output {str(folder)!r}: {reason(error)}") from error


def write_results(folder: Path, found: Evaluation, *, overwrite: bool = False) -> None:
    """Write ``figures.json``, and for classes ``classes.csv``, ``confusion.npz`` and its picture.

    The confusion matrix counts, at ``[i, j]``, the examples of class i that were taken for j.

    Raises:
      UserError: they are there already, and are not to be overwritten, or cannot be written.
    """
    check_folder(folder, overwrite=overwrite)
    try:
        _write(folder, found)
    except OSError as error:
        raise UserError(f"cannot write to {str(folder)!r}: {reason(error)}") from error


def _write(folder: Path, found: Evaluation) -> None:
    config = found.config
    about = {
        **found.origin,
        "model": config.model,
        "options": config.options,
        "data": {name: value for name, value in vars(config.data).items() if value is not None},
        "examples": len(found.source),
    }
    about |= {"evaluated": int(found.sums["valid"].sum())} if "valid" in found.sums else {}
    text = json.dumps(about | {"figures": found.metrics}, indent=2, default=str)
    with new_file(folder / "figures.json", overwrite=True) as draft:
        draft.write_text(text + "\n")
    confusion = found.task.confusion_matrix(found.sums)
    if confusion is not None:
        names = class_names(found.source)
        with new_file(folder / "confusion.npz", overwrite=True) as draft, draft.open("wb") as file:
            np.savez_compressed(file, confusion=confusion, names=np.array(names))
        write_classes(folder / "classes.csv", confusion, names)
        draw_confusion(folder / "confusion.png", confusion, names)


def write_classes(path: Path, confusion: np.ndarray, names: Sequence[str]) -> None:
    """Write a line for each class: how many examples, how many right, what it is taken for most.

    The accuracy of a class without examples is left empty.
    """
    count, correct = confusion.sum(1), np.diag(confusion)
    wrong = confusion - np.diag(correct)
    with new_file(path, overwrite=True) as draft, draft.open("w", newline="") as file:
        table = csv.writer(file)
        columns = ["index", "class", "examples", "correct", "accuracy", "taken_for", "times"]
        table.writerow(columns)
        for i, name in enumerate(names):
            accuracy = f"{correct[i] / count[i]:.4f}" if count[i] else ""
            worst = int(wrong[i].argmax())
            mistaken = [names[worst], wrong[i, worst]] if wrong[i, worst] else ["", 0]
            table.writerow([i, name, count[i], correct[i], accuracy, *mistaken])
