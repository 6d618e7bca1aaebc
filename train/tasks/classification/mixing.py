# SPDX-License-Identifier: Apache-2.0
"""Mixup and CutMix over a batch, as pure functions inside the compiled step.

An example is mixed with its neighbour in the batch, which is shuffled anyway: partners live on the
same device, so nothing travels between devices as long as each holds an even number of examples.
"""

import jax
import jax.numpy as jnp
from jax import lax


def mix(
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Apply the one whose alpha is positive; where both are, either with equal chance."""
    if mixup_alpha and cutmix_alpha:
        which, key = jax.random.split(key)
        return lax.cond(
            jax.random.bernoulli(which),
            lambda: mixup(images, targets, key, mixup_alpha),
            lambda: cutmix(images, targets, key, cutmix_alpha),
        )
    if mixup_alpha:
        return mixup(images, targets, key, mixup_alpha)
    return cutmix(images, targets, key, cutmix_alpha) if cutmix_alpha else (images, targets)


def mixup(
    images: jax.Array, targets: jax.Array, key: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Average images ``[N, ..., H, W, C]`` and one-hot ``targets [N, K]`` with their neighbours'.

    The weight of the own image is drawn from Beta(alpha, alpha), once a batch. Images are floating
    point, N is even. Zhang et al., ICLR 2018.
    """
    _check(images, targets, alpha)
    own = jax.random.beta(key, alpha, alpha)

    def average(x: jax.Array) -> jax.Array:
        return (own * x + (1 - own) * _neighbours(x)).astype(x.dtype)

    return average(images), average(targets)


def cutmix(
    images: jax.Array, targets: jax.Array, key: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Replace a rectangle of the images by their neighbours', and as large a part of the targets.

    The rectangle has the image's proportions and a uniform centre, and is cut at the border; it is
    the same in all frames of a clip and drawn once a batch, its area before the cut from
    Beta(alpha, alpha). Yun et al., ICCV 2019.
    """
    _check(images, targets, alpha)
    area_key, place_key = jax.random.split(key)
    side = jnp.sqrt(jax.random.beta(area_key, alpha, alpha))
    sizes = images.shape[-3:-1]
    centres = jax.random.uniform(place_key, (2,))

    def inside(axis: int) -> jax.Array:
        low = jnp.round((centres[axis] - side / 2) * sizes[axis])
        high = jnp.round((centres[axis] + side / 2) * sizes[axis])
        place = jnp.arange(sizes[axis])
        return (place >= low) & (place < high)

    patch = inside(0)[:, None] & inside(1)[None, :]
    mask = jnp.reshape(patch, (1,) * (images.ndim - 3) + (*sizes, 1))
    own = (1 - patch.mean()).astype(targets.dtype)
    mixed = jnp.where(mask, _neighbours(images), images)
    return mixed, own * targets + (1 - own) * _neighbours(targets)


def _neighbours(x: jax.Array) -> jax.Array:
    pairs = jnp.reshape(x, (len(x) // 2, 2, *x.shape[1:]))
    return jnp.reshape(jnp.flip(pairs, 1), x.shape)


def _check(images: jax.Array, targets: jax.Array, alpha: float) -> None:
    if len(images) % 2:
        raise ValueError(f"a batch of {len(images)} cannot be mixed in pairs; expected even")
    for name, x in (("images", images), ("targets", targets)):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} are {x.dtype}; expected floating point")
    if alpha <= 0:
        raise ValueError(f"alpha is {alpha}; expected positive")
