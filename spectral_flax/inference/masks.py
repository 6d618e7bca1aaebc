# SPDX-License-Identifier: Apache-2.0
"""Pixels that a mask marks, in grey, colour, palette or alpha channel."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def marked(image: "Image.Image") -> np.ndarray:
    """Return a number for what each pixel of a mask marks: ``int32 [H, W]``, 0 for nothing.

    L and RGB: 0 is black, every other colour has a number of its own. P: the indices. LA and RGBA:
    the colours if alpha is the same everywhere, the alpha channel if it varies and the rest is of
    one colour; nothing if all is transparent.

    Raises:
      ValueError: transparent in parts and of several colours in the rest, such as a photograph
        with an erased part; or index 0 of a palette looks like what is marked.
    """
    if image.mode == "P":
        return _indices(image)
    channels = np.asarray(image).astype(np.int32)
    if channels.ndim == 2:
        return channels
    colours = channels[..., : 3 if channels.shape[-1] > 2 else 1]
    if (colours == colours[..., :1]).all():
        colours = colours[..., 0]
    else:
        colours = colours @ np.array([1, 1 << 8, 1 << 16], np.int32)
    return _shape(colours, channels[..., -1]) if image.mode in ("LA", "RGBA") else colours


def _shape(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return what a mask of these colours with this alpha channel marks."""
    low, high = alpha.min(), alpha.max()
    if low == high:
        return colours if high else alpha
    solid = colours[alpha == high]
    if low > 0 or (solid != solid[0]).any():
        raise ValueError(
            "it is transparent in parts and not of one colour in the rest; expected a shape on "
            "transparent ground, or no transparency"
        )
    return alpha


def _indices(image: "Image.Image") -> np.ndarray:
    """Return the indices of a palette's image, if index 0 does not look like the marked part."""
    indices = np.asarray(image).astype(np.int32)
    entries, first = np.unique(indices, return_index=True)
    seen = np.asarray(image.convert("RGBA")).reshape(-1, 4)[first].astype(int)
    black, clear = (seen[:, :3] == 0).all(-1), seen[:, 3] == 0
    if entries[0] == 0:
        inverted = black[1:].any() and not black[0] and not clear[0]
        inverted |= clear[1:].any() and not clear[0]
        inverted |= len(entries) == 1 and (seen[0] == 255).all()
    else:
        inverted = black.all() and not clear.any()
    if inverted:
        colour = tuple(seen[0].tolist())
        raise ValueError(f"its palette contradicts its labels: {entries[0]} has colour {colour}")
    return indices
