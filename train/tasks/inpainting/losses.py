# SPDX-License-Identifier: Apache-2.0
"""Losses of the published LaMa training, and the metrics of its evaluation.

Suvorov et al., WACV 2022, section 2.3. Images are ``[N, H, W, C]`` in [0, 1]. Masks are
``[N, H, W, 1]``, 1 where the image is missing.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def masked_l1(predicted, image, mask, *, known: float = 10.0, missing: float = 0.0) -> jax.Array:
    """Return the mean over all pixels of weighted absolute differences."""
    weight = known * (1 - mask) + missing * mask
    return jnp.mean(weight * jnp.abs(predicted - image))


def generator_loss(logits: jax.Array) -> jax.Array:
    """Return the non-saturating loss of a generator whose images have these logits."""
    return jnp.mean(jax.nn.softplus(-logits))


def discriminator_loss(real: jax.Array, fake: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the loss of the logits of real and of generated images.

    Patches of the generated image that were known count as real: the mask, by nearest neighbours
    at the size of the logits, says which.
    """
    rows, columns = (
        np.arange(n) * m // n for n, m in zip(fake.shape[1:3], mask.shape[1:3], strict=True)
    )
    m = mask[:, rows][:, :, columns]
    made = m * jax.nn.softplus(fake) + (1 - m) * jax.nn.softplus(-fake)
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(made)


def gradient_penalty(gradient: jax.Array) -> jax.Array:
    """Return R1: the mean over images of the squared norm of the logits' gradient at real images.

    Mescheder, Geiger and Nowozin, ICML 2018.
    """
    return jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))


def feature_matching(fake: Sequence[jax.Array], real: Sequence[jax.Array]) -> jax.Array:
    """Return the mean over layers of the mean squared difference of feature maps."""
    return perceptual(fake, real) / len(fake)


def perceptual(fake: Sequence[jax.Array], real: Sequence[jax.Array]) -> jax.Array:
    """Return the sum over layers of the mean squared difference of feature maps."""
    return sum(jnp.mean((a - b) ** 2) for a, b in zip(fake, real, strict=True))


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the peak signal-to-noise ratio in decibels of each image: ``[N]``; at most 100."""
    error = jnp.mean((a - b) ** 2, axis=(1, 2, 3))
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))


SSIM_WINDOW = 11  # pixels


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the structural similarity of each image: ``[N]``, of H and W of 11 at least.

    Gaussian windows of 11 pixels and deviation 1.5, those inside the image only, averaged over
    channels. Wang et al., IEEE Transactions on Image Processing, 2004.
    """
    if min(a.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"images have shape {a.shape}; expected H, W of 11 at least")
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    bell = (bell / bell.sum()).astype(np.float32)

    def blur(x):
        for axis in (1, 2):
            length = x.shape[axis] - 10
            parts = (w * lax.slice_in_dim(x, i, i + length, axis=axis) for i, w in enumerate(bell))
            x = sum(parts)
        return x

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return jnp.mean(top / bottom, axis=(1, 2, 3))
