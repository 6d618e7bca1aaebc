# SPDX-License-Identifier: Apache-2.0
"""Classification: the most probable classes of images and clips, and their names."""

import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from spectral_flax.kernels.cpu import compiler_options
from spectral_flax.layers.modes import evaluation_mode

BATCH = 16


class Class(NamedTuple):
    """One class of an image."""

    label: str
    probability: float


def best_classes(
    probabilities: np.ndarray, *, labels: Sequence[str] | None = None, top: int = 5
) -> list[list[Class]]:
    """Return the ``top`` classes of each row of ``[N, classes]``, the most probable first.

    Raises ValueError if the numbers of labels and classes differ, or ``top`` is not positive.
    """
    count = probabilities.shape[-1]
    labels = [f"class {i}" for i in range(count)] if labels is None else labels
    if len(labels) != count:
        raise ValueError(f"labels names {len(labels)} classes; the model has {count}")
    if top < 1:
        raise ValueError(f"top={top}; expected a positive number")
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top]
    return [
        [Class(labels[i], float(row[i])) for i in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def classify(model: nnx.Module, x: np.ndarray, *, views: int = 1) -> np.ndarray:
    """Return class probabilities ``[N * views, ..., C] -> [N, classes]``, float32.

    Logits are averaged over the views of each example, which follow one another. Raises ValueError
    if the model gives something else than classes.
    """
    logits = outputs(model, x)
    if logits.ndim != 2:
        raise ValueError(f"the model gives arrays of shape {logits.shape}, not classes")
    return np.asarray(jax.nn.softmax(logits.reshape(-1, views, logits.shape[-1]).mean(1)))


def outputs(model: nnx.Module, x: np.ndarray) -> np.ndarray:
    """Return what a model gives in evaluation mode, in batches: ``[N, ...]``, float32."""
    graphdef, state = nnx.split(evaluation_mode(model))
    forward = _compiled()
    batches = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    return np.concatenate([np.asarray(forward(graphdef, state, batch)) for batch in batches])


@functools.cache
def _compiled():
    def forward(graphdef, state, x):
        return nnx.merge(graphdef, state)(x).astype(np.float32)

    return jax.jit(forward, static_argnums=0, compiler_options=compiler_options())


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Return class names from a text file, one a line, or from JSON.

    JSON may be a list, or a mapping of numbers to names (or to a list that ends in the name).
    Raises ValueError, naming the file, for anything else.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")  # with or without a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8: {error}") from error
    if not str(path).endswith(".json"):
        return text.rstrip("\n").split("\n") if text.strip() else []
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = [found[str(i)] for i in range(len(found))]
        return [str(item[-1] if isinstance(item, list) else item) for item in found]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} holds no class names, numbered from 0: {error!r}") from error
