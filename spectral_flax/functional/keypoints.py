# SPDX-License-Identifier: Apache-2.0
"""Heatmaps of joints, their decoding, and non-maximum suppression of poses.

Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018, and its code.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from spectral_flax.arrays import as_array, as_floating, wide
from spectral_flax.functional.pooling import largest

COCO_FLIP_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
"""Left and right of COCO's eyes, ears, shoulders, elbows, wrists, hips, knees and ankles."""
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""Deviations of annotators, relative to the square root of the person's area."""


def gaussian_heatmaps(
    joints: jax.Array, visible: jax.Array, *, size: tuple[int, int], sigma: int
) -> tuple[jax.Array, jax.Array]:
    """Draw a Gaussian for each joint: ``[..., J, 2], [..., J] -> [..., H, W, J], [..., J]``.

    ``joints`` are x, y in pixels of the heatmap of ``size`` H, W. A Gaussian is centred on the
    nearest pixel, has height 1 and ends ``3 * sigma`` pixels from its centre along each axis. The
    second result weighs each joint's loss: 0 where it is not ``visible`` or its Gaussian lies
    outside the heatmap altogether, else 1. Both are of the dtype of ``joints``.
    """
    joints, visible = as_floating(joints=joints), _as_real("visible", visible)
    if joints.shape[-1:] != (2,) or visible.shape != joints.shape[:-1]:
        raise ValueError(
            f"joints, visible have shapes {joints.shape}, {visible.shape}; "
            "expected [..., J, 2], [..., J]"
        )
    if not sigma > 0:
        raise ValueError(f"sigma={sigma}; expected a positive number")
    height, width = size
    radius = 3 * sigma
    dtype = joints.dtype
    joints = joints.astype(wide(dtype))  # bfloat16 counts to 256, by ones
    centre = jnp.trunc(joints + 0.5)  # the published code truncates, also below 0
    x, y = centre[..., 0], centre[..., 1]
    inside = (x - radius < width) & (y - radius < height)
    inside &= (x + radius + 1 >= 0) & (y + radius + 1 >= 0)
    weight = (inside & (visible > 0.5)).astype(joints.dtype)

    def profile(centre, length):
        distance = _positions(length, centre.ndim, joints.dtype) - centre[..., None]
        bell = jnp.exp(-(distance**2) / (2 * sigma**2))
        return jnp.where(jnp.abs(distance) <= radius, bell, 0)

    rows, columns = profile(y, height), profile(x, width) * weight[..., None]
    heatmaps = jnp.einsum("...jh,...jw->...hwj", rows, columns, precision="highest")
    return heatmaps.astype(dtype), weight.astype(dtype)


def decode_heatmaps(heatmaps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the joints: ``[..., H, W, J] -> [..., J, 2], [..., J]``, x and y and the peak's height.

    The highest pixel (the first of equals, row by row), moved by a quarter of a pixel along each
    axis towards the higher neighbour unless it is within two pixels of the top or left border or
    one of the bottom or right; (0, 0) where the peak is not positive. In float32 or wider.
    """
    heatmaps = as_floating(heatmaps=heatmaps)
    if heatmaps.ndim < 3 or 0 in heatmaps.shape[-3:-1]:
        expected = "[..., H, W, J], neither H nor W empty"
        raise ValueError(f"heatmaps have shape {heatmaps.shape}; expected {expected}")
    *_, height, width, joints = heatmaps.shape
    h = heatmaps.astype(wide(heatmaps.dtype))
    flat = h.reshape(*h.shape[:-3], height * width, joints)
    score, index = largest(flat, flat.ndim - 2), flat.argmax(-2)
    x, y = index % width, index // width
    at_x, at_y = (
        (_positions(length, x.ndim, x.dtype) == place[..., None]).astype(h.dtype)
        for length, place in ((width, x), (height, y))
    )
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)

    def towards(axis):
        difference = jnp.roll(h, -1, axis) - jnp.roll(h, 1, axis)
        # Picked out by a product, since a gather would not stay on its own examples of a batch.
        picked = jnp.einsum("...hwj,...jh,...jw->...j", difference, at_y, at_x, precision="highest")
        return jnp.where(inner, jnp.sign(picked) * 0.25, 0)

    x, y = x.astype(h.dtype), y.astype(h.dtype)
    place = jnp.stack([x + towards(-2), y + towards(-3)], axis=-1)
    return jnp.where(score[..., None] > 0, place, 0), score


def flip_heatmaps(
    heatmaps: jax.Array, pairs: Sequence[tuple[int, int]] = COCO_FLIP_PAIRS, *, shift: bool = True
) -> jax.Array:
    """Mirror heatmaps and exchange left and right joints: ``[..., H, W, J] -> [..., H, W, J]``.

    Its own inverse without ``shift``, which moves the result one pixel to the right (the first
    column stays) to make up for the misalignment of a mirrored image at a stride of 4.
    """
    heatmaps = as_array("heatmaps", heatmaps)
    if heatmaps.ndim < 3:
        raise ValueError(f"heatmaps have shape {heatmaps.shape}; expected [..., H, W, J]")
    order = list(range(heatmaps.shape[-1]))
    for a, b in pairs:
        if not (0 <= a < len(order) and 0 <= b < len(order)):
            raise ValueError(f"pairs has {(a, b)}; expected numbers of {len(order)} joints, from 0")
        order[a], order[b] = b, a
    y = jnp.stack([heatmaps[..., ::-1, j] for j in order], axis=-1)
    return jnp.concatenate([y[..., :1, :], y[..., :-1, :]], axis=-2) if shift else y


def object_keypoint_similarity(
    a: jax.Array,
    b: jax.Array,
    area_a: jax.Array,
    area_b: jax.Array,
    sigmas: Sequence[float] = COCO_SIGMAS,
) -> jax.Array:
    """Compare poses: ``[..., J, 2], [..., J, 2], [...], [...] -> [...]``, 1 for equal ones.

    Mean over the joints of ``exp(-d² / (2 (2 sigma)² area))``, d their distance and area the mean
    of both poses' areas. Arguments are broadcast.
    """
    arrays = dict(a=a, b=b, area_a=area_a, area_b=area_b)
    arrays = [_as_real(name, x) for name, x in arrays.items()]
    dtype = wide(*(x.dtype for x in arrays))
    a, b, area_a, area_b = (x.astype(dtype) for x in arrays)
    if a.shape[-2:] != (len(sigmas), 2) or b.shape[-2:] != (len(sigmas), 2):
        raise ValueError(
            f"a, b have shapes {a.shape}, {b.shape}; expected [..., {len(sigmas)}, 2]: a sigma each"
        )
    variance = (2 * jnp.asarray(sigmas, dtype)) ** 2
    area = (area_a + area_b)[..., None] / 2 + jnp.finfo(dtype).tiny
    squared = ((a - b) ** 2).sum(-1)
    return jnp.exp(-squared / lax.expand_dims(variance, range(squared.ndim - 1)) / area / 2).mean(
        -1
    )


def oks_nms(
    keypoints: jax.Array,
    scores: jax.Array,
    areas: jax.Array,
    threshold: float = 0.9,
    sigmas: Sequence[float] = COCO_SIGMAS,
) -> jax.Array:
    """Drop repeated poses: ``[N, J, 2], [N], [N] -> [N]``, True for those to keep.

    From the best score down (the first of equals), each pose that is kept drops all later ones
    whose similarity with it is above ``threshold``.
    """
    arrays = dict(keypoints=keypoints, scores=scores, areas=areas)
    keypoints, scores, areas = (_as_real(name, x) for name, x in arrays.items())
    if scores.ndim != 1 or areas.shape != scores.shape or keypoints.shape[:-2] != scores.shape:
        shapes = ", ".join(str(x.shape) for x in (keypoints, scores, areas))
        raise ValueError(f"{', '.join(arrays)} have shapes {shapes}; expected [N, J, 2], [N], [N]")
    if len(scores) == 0:
        return jnp.ones(0, bool)
    order = jnp.argsort(-scores.astype(wide(scores.dtype)), stable=True)
    poses, areas = keypoints[order], areas[order]
    similarity = object_keypoint_similarity(
        poses[:, None], poses[None], areas[:, None], areas[None], sigmas
    )
    later = jnp.arange(len(scores))

    def drop(i, keep):
        return keep & ~(keep[i] & (similarity[i] > threshold) & (later > i))

    keep = lax.fori_loop(0, len(scores), drop, jnp.ones(len(scores), bool))
    return jnp.zeros_like(keep).at[order].set(keep)


def _as_real(name: str, value) -> jax.Array:
    """Return ``value`` as an array; TypeError for complex numbers, as for what `as_array` names."""
    x = as_array(name, value)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{name} has dtype {x.dtype}; expected real numbers")
    return x


def _positions(length: int, ndim: int, dtype) -> jax.Array:
    """Return 0, 1, … along a new last axis of an array of ``ndim`` axes."""
    return jnp.arange(length, dtype=dtype).reshape((1,) * ndim + (-1,))
