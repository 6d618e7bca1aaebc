# SPDX-License-Identifier: Apache-2.0
"""Image classification: the most probable classes of arrays and image files."""

import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from flax import nnx

from spectral_flax.inference.images import File, normalized, pillow, read_image
from spectral_flax.kernels.cpu import compiler_options
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.models.record import Card

if TYPE_CHECKING:
    from PIL import Image

BATCH = 16
# A thin strip is cut to this ratio of its sides before it is resized; the crop sees no more of it.
MAX_ASPECT = 16


class Class(NamedTuple):
    """One class of an image."""

    label: str
    probability: float


def predict_classes(
    model: nnx.Module,
    images: Sequence["np.ndarray | Image.Image | File"],
    about: Card,
    *,
    labels: Sequence[str] | None = None,
    top: int = 5,
) -> list[list[Class]]:
    """Return the ``top`` most probable classes of each image, the most probable first.

    Each image is uint8 ``[H, W, 3]``, a Pillow image in RGB or a file, of any size. ``about`` is
    the card of the model, which says how it wants images (see `prepare`). ``labels`` name the
    classes; None is ``class 0`` and so on.

    Raises:
      ValueError: the numbers of labels and classes differ, ``top`` is not positive, or the model
        gives something else than classes.
      OSError, ImageFileError: a file can not be read as an image.
    """
    if not images:
        return []
    x = np.stack([prepare(image, about) for image in images])
    return best_classes(classify(model, x), labels=labels, top=top)


def best_classes(
    probabilities: np.ndarray, *, labels: Sequence[str] | None = None, top: int = 5
) -> list[list[Class]]:
    """Return the ``top`` most probable classes of each row of ``[N, classes]``; `predict_classes`.

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


def prepare(image: "np.ndarray | Image.Image | File", about: Card) -> np.ndarray:
    """Return a model's input ``[H, W, 3]``, float32: resized, cut out, normalised.

    The shorter side is resized, the centre is cut out, and numbers and channels become those that
    the card tells: mean, deviation, order. Transparency in a file is laid on white.

    Raises:
      ValueError: an array is not uint8 ``[H, W, 3]``.
      OSError, ImageFileError: a file can not be read as an image.
    """
    image = _as_image(image)
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        keep = MAX_ASPECT * min(width, height)
        left, top = max(0, width - keep) // 2, max(0, height - keep) // 2
        image = image.crop((left, top, left + min(width, keep), top + min(height, keep)))
        width, height = image.size
    rows, columns = about.input_size[-2:]
    short = max(about.resize, rows, columns)
    scaled = tuple(max(short, int(short * side / min(width, height))) for side in (width, height))
    image = image.resize(scaled, pillow().Resampling[about.interpolation.upper()])
    left, top = round((scaled[0] - columns) / 2), round((scaled[1] - rows) / 2)
    x = np.asarray(image.crop((left, top, left + columns, top + rows)))
    mean, std, bgr = np.float32(about.mean), np.float32(about.std), about.channel_order == "BGR"
    if mean.max() > 1:  # of numbers from 0 to 255
        mean, std = mean / 255, std / 255
    return normalized(x, mean, std, bgr=bgr)


def classify(model: nnx.Module, x: np.ndarray) -> np.ndarray:
    """Return class probabilities ``[N, H, W, C] -> [N, classes]``, float32, in evaluation mode.

    Raises ValueError if the model gives something else than classes.
    """
    graphdef, state = nnx.split(evaluation_mode(model))

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def forward(state, x):
        y = nnx.merge(graphdef, state)(x)
        if y.ndim != 2:
            raise ValueError(f"the model gives arrays of shape {y.shape}, not classes")
        return jax.nn.softmax(y.astype(np.float32))

    batches = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    return np.concatenate([np.asarray(forward(state, batch)) for batch in batches])


def read_labels(path: str | os.PathLike) -> list[str]:
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


def _as_image(image) -> "Image.Image":
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 [H, W, 3]")
        return pillow().fromarray(image)
    return image if isinstance(image, pillow().Image) else read_image(image, alpha="white")
