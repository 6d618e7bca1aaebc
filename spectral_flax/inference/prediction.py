# SPDX-License-Identifier: Apache-2.0
"""What a model says of images and videos: classes, masks or poses, as its record tells."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from spectral_flax.checkpoints.store import record_of
from spectral_flax.inference.classification import BATCH, best_classes, classify, outputs
from spectral_flax.inference.images import File, pillow, read_image
from spectral_flax.inference.pose import predict_pose
from spectral_flax.inference.preparation import (
    About,
    prepare,
    prepare_views,
    preprocessing_of,
)
from spectral_flax.models.record import Preprocessing


class Pose(NamedTuple):
    """The joints of people in an image: ``[N, J, 2]``, x and y in pixels, and ``[N, J]`` scores."""

    joints: np.ndarray
    scores: np.ndarray


def predict(
    model: nnx.Module,
    images: Any,
    *,
    about: About | None = None,
    class_names: Sequence[str] | None = None,
    top: int = 5,
    boxes: Sequence[Sequence[float]] | None = None,
    clips: int = 1,
    crops: int = 1,
) -> Any:
    """Return what a model says of an image, or of each in a list; of videos where it takes clips.

    Images and videos are files or arrays, as `prepare` takes them. By the task of the model:

    - classification: the ``top`` classes, the most probable first, each with ``label`` and
      ``probability``. ``class_names`` come before those of the model's record. A video is seen in
      ``clips`` spread over it, each in ``crops`` along its longer side (1 or 3); the logits of its
      views are averaged.
    - segmentation: the class of each pixel, int32 ``[H, W]``, of the image's own size.
    - pose: `Pose`, the joints of the people in ``boxes``, each x, y, width, height; None is one
      person who fills the image.

    ``about`` says how the input is prepared; None: as the model's record.

    Raises:
      ValueError: the task has another function (`inpaint`), the model none of these, or an
        argument an impossible value.
      TypeError: the model has no record, and ``about`` does not stand in for it.
      OSError, ImageFileError: a file can not be read.
    """
    record = record_of(model)
    about = preprocessing_of(model if about is None else about)
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        how = dict(about=about, class_names=class_names, top=top, boxes=boxes)
        return predict(model, [images], **how, clips=clips, crops=crops)[0]
    match record.task:
        case "segmentation":
            return [_mask(model, image, about) for image in images]
        case "pose":
            found = (_pixels(image) for image in images)
            return [Pose(*predict_pose(model, x, boxes, about=about)) for x in found]
        case "inpainting":
            raise ValueError("an inpainting model needs a mask too: sf.inpaint(model, image, mask)")
    names = class_names if class_names is not None else record.class_names or None
    found = []
    for i in range(0, len(images), BATCH):
        x, views = _inputs(images[i : i + BATCH], about, clips, crops)
        found += best_classes(classify(model, x, views=views), labels=names, top=top)
    return found


def _inputs(images, about: Preprocessing, clips: int, crops: int) -> tuple[np.ndarray, int]:
    if len(about.input_size) == 2:
        if (clips, crops) != (1, 1):
            raise ValueError(f"clips={clips}, crops={crops} are for videos; the model takes images")
        return prepare(images, about), 1
    views = [prepare_views(video, about, clips=clips, crops=crops) for video in images]
    return np.concatenate(views), clips * crops


def _mask(model: nnx.Module, image, about: Preprocessing) -> np.ndarray:
    """Return the class of each pixel, at the size of the image."""
    pixels = _pixels(image)
    logits = outputs(model, prepare([pixels], about))[0]
    if logits.ndim != 3:
        raise ValueError(f"the model gives arrays of shape {logits.shape}, not a class a pixel")
    classes = pillow().fromarray(logits.argmax(-1).astype(np.int32))
    size, nearest = pixels.shape[1::-1], pillow().Resampling.NEAREST
    return np.asarray(classes if classes.size == size else classes.resize(size, nearest))


def _pixels(image: "np.ndarray | File") -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    return np.asarray(image if hasattr(image, "mode") else read_image(image, alpha="white"))
