# SPDX-License-Identifier: Apache-2.0
"""Attention maps as pictures: weights of positions drawn over their image."""

import os
import pathlib

import numpy as np
from jax.typing import ArrayLike

from spectral_flax.inference.images import pillow
from spectral_flax.layers.bilinear import AttentionMaps

# Dark blue, blue, cyan, yellow, red, dark red at equal steps: weak to strong.
_COLOURS = np.array(
    [(0, 0, 128), (0, 0, 255), (0, 255, 255), (255, 255, 0), (255, 0, 0), (128, 0, 0)], float
)


def scale_to_bytes(weights: ArrayLike) -> np.ndarray:
    """Scale each map to 0 ... 255: ``[..., H, W] -> [..., H, W]``, uint8.

    Its smallest weight becomes 0 and its largest 255; a constant map becomes 0.

    Raises:
      ValueError: weights are not finite, or have fewer than two axes.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim < 2:
        raise ValueError(f"weights have shape {weights.shape}; expected [..., H, W]")
    if not np.isfinite(weights).all():
        raise ValueError("weights are not all finite")
    low = weights.min((-2, -1), keepdims=True)
    span = weights.max((-2, -1), keepdims=True) - low
    return np.round(255 * (weights - low) / np.where(span > 0, span, 1)).astype(np.uint8)


def colour(levels: np.ndarray) -> np.ndarray:
    """Give levels 0 ... 255 the colours blue to red: ``[..., H, W] -> [..., H, W, 3]``, uint8."""
    position = np.asarray(levels, np.float64) * (len(_COLOURS) - 1) / 255
    steps = np.arange(len(_COLOURS))
    channels = [np.interp(position, steps, c) for c in _COLOURS.T]
    return np.round(np.stack(channels, -1)).astype(np.uint8)


def overlay(image: ArrayLike, weights: ArrayLike, *, opacity: float = 0.5) -> np.ndarray:
    """Draw one map over an image: ``[H, W, 3], [h, w] -> [H, W, 3]``, uint8.

    The image is in 0 ... 255 (uint8) or 0 ... 1 (floating; take a normalisation back first). The
    map is scaled to 0 ... 255 and to the image's size, bilinearly.

    Raises:
      ValueError: shapes, values or the opacity are not as said.
    """
    Image = pillow()
    image = _as_bytes(image)
    weights = np.asarray(weights)
    if weights.ndim != 2:
        raise ValueError(f"weights have shape {weights.shape}; expected [h, w]")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity!r}; expected a number from 0 to 1")
    size = image.shape[1], image.shape[0]
    levels = Image.fromarray(scale_to_bytes(weights)).resize(size, Image.Resampling.BILINEAR)
    mixed = (1 - opacity) * image + opacity * colour(np.asarray(levels))
    return np.round(mixed).astype(np.uint8)


def draw_maps(
    images: ArrayLike,
    maps: AttentionMaps | ArrayLike,
    path: str | os.PathLike,
    *,
    example: int = 0,
    opacity: float = 0.5,
) -> pathlib.Path:
    """Write a PNG of an example's re-projected attention over its image and return the path.

    One row per frame (one for an image): the frame itself, then a picture per group.

    Args:
      images: ``[N, H, W, 3]``, or ``[N, T, H, W, 3]`` for video; values as in `overlay`. Where the
        network has pooled frames, T is a multiple of the map's; the middle one of each is drawn.
      maps: what ``attention_maps`` of a bilinear attention returned, or weights
        ``[N, (T,) G, h, w]`` from elsewhere.
      path: file to write.
      example: which of the N.
      opacity: of the maps over the image.

    Raises:
      ValueError: shapes do not belong together.
    """
    Image = pillow()
    weights = np.asarray(maps.reprojection if isinstance(maps, AttentionMaps) else maps)
    images = np.asarray(images)
    if images.ndim not in (4, 5) or weights.ndim != images.ndim:
        raise ValueError(
            f"images have shape {images.shape} and maps {weights.shape}; expected [N, H, W, 3] "
            "with [N, G, h, w], or [N, T, H, W, 3] with [N, T, G, h, w]"
        )
    if len(images) != len(weights) or not 0 <= example < len(images):
        raise ValueError(
            f"example={example} of {len(images)} images and {len(weights)} maps; "
            "expected one that both have"
        )
    frames, weights = images[example], weights[example]
    if images.ndim == 4:
        frames, weights = frames[None], weights[None]
    if len(frames) % len(weights):
        raise ValueError(f"{len(frames)} frames are no multiple of the maps' {len(weights)}")
    step = len(frames) // len(weights)
    rows = []
    for frame, groups in zip(frames[step // 2 :: step], weights, strict=True):
        pictures = [overlay(frame, group, opacity=opacity) for group in groups]
        rows.append(np.concatenate([_as_bytes(frame), *pictures], axis=1))
    path = pathlib.Path(path)
    Image.fromarray(np.concatenate(rows, axis=0)).save(path, format="PNG")
    return path


def _as_bytes(image):
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"the image has shape {image.shape}; expected [H, W, 3]")
    if image.dtype == np.uint8:
        return image
    image = image.astype(np.float64)
    if not (np.isfinite(image).all() and image.min() >= -1e-6 and image.max() <= 1 + 1e-6):
        raise ValueError(
            f"the image is {image.min():.3g} to {image.max():.3g}; "
            "expected floats from 0 to 1, or uint8"
        )
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
