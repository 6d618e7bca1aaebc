# SPDX-License-Identifier: Apache-2.0
"""Poses of people in an image, given a box around each, and drawings of the skeletons."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from spectral_flax.functional.keypoints import decode_heatmaps, flip_heatmaps
from spectral_flax.inference.images import normalized, pillow
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.models.record import Preprocessing
from spectral_flax.models.registry import card

COCO_LIMBS = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)
LARGEST = 1e9
"""Bound of the coordinates of a box."""
VISIBLE = 0.2
"""Score above which a joint counts as found."""


def box_to_region(box: Sequence[float], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and extent, in x, y order, of the region to cut out for a box x, y, w, h.

    The box is enlarged to the proportions of ``size`` H, W, and then by a quarter.
    """
    x, y, w, h = box
    proportion = size[1] / size[0]
    w, h = max(w, h * proportion), max(h, w / proportion)
    return np.array([x + box[2] / 2, y + box[3] / 2]), 1.25 * np.array([w, h])


def crop_matrix(
    centre: np.ndarray, extent: np.ndarray, size: tuple[int, int], degrees: float = 0.0
) -> np.ndarray:
    """Return the affine map from pixels of the crop to pixels of the image: ``[2, 3]``.

    The middle of the crop of ``size`` H, W falls on ``centre``, its width covers the width of
    ``extent`` and it is turned by ``degrees``.
    """
    angle = np.deg2rad(degrees)
    scale = extent[0] / size[1]
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn, centre - turn @ (np.array(size[::-1]) / 2)])


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply an affine map: ``[..., 2], [2, 3] -> [..., 2]``."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of an affine map, ``[2, 3]``."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def crop(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut out a turned region of ``uint8 [H, W, 3]``, bilinearly: ``[*size, 3]``, black outside."""
    Image = pillow()
    # Pillow counts from the corner of a pixel, the matrix from its middle.
    shift = matrix[:, 2] + 0.5 - matrix[:, :2] @ (0.5, 0.5)
    coefficients = np.column_stack([matrix[:, :2], shift]).reshape(-1)
    turned = Image.fromarray(image).transform(
        size[::-1], Image.Transform.AFFINE, tuple(coefficients), Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def predict_pose(
    model: nnx.Module,
    image: np.ndarray,
    boxes: Sequence[Sequence[float]] | None = None,
    *,
    size: tuple[int, int] | None = None,
    about: Preprocessing | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find joints: ``uint8 [H, W, 3] -> [N, J, 2], [N, J]``, x and y in the image, and scores.

    ``boxes`` are x, y, w, h of N people; None is one person who fills the image. ``about`` is the
    preprocessing of the model: their size (``size`` comes first), mean,
    deviation and order of channels; None is that of the published networks. Heatmaps of the crop
    and of its mirror image are averaged, as published.
    """
    about = card("pose_resnet50") if about is None else about
    size = about.input_size if size is None else size
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 [H, W, 3]")
    if boxes is None:
        boxes = [(0, 0, image.shape[1], image.shape[0])]
    if not len(boxes):
        raise ValueError(
            "boxes is empty; expected some, or None for one person who fills the image"
        )
    for box in boxes:
        if len(box) != 4 or not np.abs(box).max() < LARGEST or box[2] <= 0 or box[3] <= 0:
            raise ValueError(
                f"box {tuple(box)}; expected x, y, w, h below {LARGEST:g}, the latter two positive"
            )
        ends = box[0] + box[2], box[1] + box[3]
        if box[0] >= image.shape[1] or box[1] >= image.shape[0] or min(ends) <= 0:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise ValueError(f"box {tuple(box)} lies outside the image of {size} pixels")
    regions = [box_to_region(box, size) for box in boxes]
    matrices = [crop_matrix(*region, size) for region in regions]
    crops = np.stack([crop(image, matrix, size) for matrix in matrices])
    graphdef, state = nnx.split(evaluation_mode(model))
    x = normalized(crops, about.mean, about.std, bgr=about.channel_order == "BGR")
    places, scores, grid = (np.asarray(a) for a in _joints(graphdef, state, x))
    matrices = [crop_matrix(*region, tuple(grid)) for region in regions]
    pairs = zip(places, matrices, strict=True)
    return np.stack([transform_points(*pair) for pair in pairs]), scores


def draw_skeletons(
    image: np.ndarray, joints: np.ndarray, scores: np.ndarray, *, threshold: float = VISIBLE
) -> np.ndarray:
    """Draw limbs between joints of scores above ``threshold``; COCO's 17: ``uint8 [H, W, 3]``."""
    Image = pillow()
    from PIL import ImageDraw

    picture = Image.fromarray(np.asarray(image)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 120))
    for places, confidence in zip(joints, scores, strict=True):
        for a, b in COCO_LIMBS:
            if min(confidence[a], confidence[b]) > threshold:
                colour = (60, 200, 60) if a % 2 else (230, 90, 40)
                draw.line([*map(tuple, places[[a, b]].tolist())], fill=colour, width=width)
        for (x, y), score in zip(places.tolist(), confidence, strict=True):
            if score > threshold:
                draw.ellipse((x - width, y - width, x + width, y + width), fill=(255, 255, 0))
    return np.asarray(picture)


@functools.partial(jax.jit, static_argnums=0)
def _joints(graphdef, state, x):
    model = nnx.merge(graphdef, state)
    heatmaps = (model(x) + flip_heatmaps(model(x[:, :, ::-1]))) / 2
    return *decode_heatmaps(heatmaps), np.array(heatmaps.shape[1:3])
