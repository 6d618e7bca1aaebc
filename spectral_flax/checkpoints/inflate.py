# SPDX-License-Identifier: Apache-2.0
"""Weights of an image model into the video model of the same shape."""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.faults import CheckpointError
from spectral_flax.checkpoints.parts import (
    INSERTED,
    as_parts,
    chosen,
    inserted_in,
    without_inserted,
)
from spectral_flax.checkpoints.values import UnfitValueError, converted


class Inflation(NamedTuple):
    """What `inflate` did, by paths of the video model's arrays."""

    copied: tuple[str, ...]
    inflated: tuple[str, ...]
    skipped: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        text = f"copied {len(self.copied)} arrays, inflated {len(self.inflated)}"
        for what, paths in (("left as they were", self.skipped), ("not used", self.unused)):
            if paths:
                text += f"; {what}: {', '.join(paths)}"
        return text


def inflate(
    image_model: nnx.Module,
    video_model: nnx.Module,
    *,
    skip: str | Iterable[str] = (),
    allow_non_finite: bool = False,
) -> Inflation:
    """Fill ``video_model``, in place, with the weights of ``image_model``; return a report.

    A kernel that has an axis of T frames more gets T copies, divided by T: on a clip that does not
    change it gives what the image kernel gives (Carreira and Zisserman, CVPR 2017). All else is
    copied, batch statistics included. ``skip`` names parts of the video model that keep their
    values, by dotted paths or globs: ``"head"``, ``"*.transform.rows"``, ``"inserted"``. Weights of
    the image model without a counterpart must be skipped too. Dtypes are the video model's.

    Raises:
      CheckpointError: an array of the video model has no counterpart in the image model, or one of
        another shape, or the reverse, or values that do not fit (see `load_torch`); nothing is
        changed.
      ValueError: ``skip`` names nothing.
    """
    source, target = _arrays(image_model), _arrays(video_model)
    theirs, ours = ({path: path for path in arrays} for arrays in (source, target))
    parts = as_parts(skip)
    if INSERTED in parts and (inserted_in(source) or inserted_in(target)):
        parts = tuple(part for part in parts if part != INSERTED)
        theirs, ours = without_inserted(theirs), without_inserted(ours)
    left = [path for path in source if path not in theirs.values()]
    kept = [path for path in target if path not in ours.values()]
    source = {name: source[path] for name, path in theirs.items()}
    target = {name: target[path] for name, path in ours.items()}
    skipped = chosen(source | target, parts, of="either model")
    faults, values, inflated = [], {}, []
    for path, variable in target.items():
        if path in skipped:
            continue
        if path not in source:
            faults.append(f"missing in the image model: {path} {list(variable.shape)}")
            continue
        value, shape = np.asarray(source[path][...]), tuple(variable.shape)
        if value.ndim >= 3 and value.shape == shape[1:]:
            value = _copies(value, shape)
            inflated.append(path)
        if value.shape != shape:
            faults.append(f"shape: {path} is {list(value.shape)}; the video needs {list(shape)}")
        try:
            values[path] = converted(value, variable.dtype, allow_non_finite=allow_non_finite)
        except UnfitValueError as error:
            faults.append(f"value: {path} {error}")
    unused = [path for path in source if path not in target]
    faults += [f"no place in the video model: {path}" for path in unused if path not in skipped]
    if faults:
        image, video = type(image_model).__name__, type(video_model).__name__
        raise CheckpointError(f"the image model {image} does not fit this {video}:", faults)
    for path, value in values.items():
        target[path].set_value(jnp.asarray(value))
    copied = tuple(ours[path] for path in values if path not in inflated)
    kept += [ours[path] for path in target if path in skipped]
    enlarged = tuple(ours[path] for path in inflated)
    return Inflation(copied, enlarged, (*kept,), (*left, *(theirs[path] for path in unused)))


def _copies(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return copies of a kernel along a first axis, which sum to it."""
    exact = np.promote_types(kernel.dtype, np.float32)
    return np.broadcast_to(np.true_divide(kernel, shape[0], dtype=exact), shape)


def _arrays(model: nnx.Module) -> dict[str, nnx.Variable]:
    """Return the parameters and batch statistics themselves by dotted path."""
    wanted = (nnx.Param, nnx.BatchStat)
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, wanted)
    }
