# SPDX-License-Identifier: Apache-2.0
"""Effective receptive fields: how much each pixel of the input moves one position of a map."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.analysis.map_sizes import map_sizes
from spectral_flax.arrays import as_floating
from spectral_flax.layers.modes import evaluation_mode


def receptive_field(
    model: nnx.Module,
    images: jax.Array,
    *,
    layer: str | None = None,
    position: tuple[int, ...] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> np.ndarray:
    """Return the mean energy of the gradient of one position: ``[N, *size, C] -> [*size]``, sum 1.

    The energy of a pixel is the squared norm of the Jacobian of all channels at ``position`` with
    respect to it, estimated by ``draws`` random projections, and averaged over the images. Running
    statistics are used and nothing is dropped.

    Args:
      model: a network with ``features``.
      images: its input, images or clips.
      layer: the map, by its name in ``features``; None: the last.
      position: in the map; None: its centre.
      draws: random projections of the channels.
      seed: of these.

    Raises:
      ValueError: there is no such layer or position; or nothing moves it.

    Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
    NeurIPS 2016, with the energy in place of the mean.
    """
    images = as_floating(images=images)
    sizes = map_sizes(model, images)
    if layer is not None and layer not in sizes:
        raise ValueError(f"layer={layer!r}; expected one of {', '.join(sizes)}")
    layer = list(sizes)[-1] if layer is None else layer
    size = sizes[layer]
    place = tuple(n // 2 for n in size) if position is None else tuple(position)
    if len(place) != len(size) or any(not 0 <= p < n for p, n in zip(place, size, strict=True)):
        raise ValueError(f"position={place}; expected one of the map, {size}")
    graphdef, state = nnx.split(evaluation_mode(model))

    def maps_of(state, x):
        return nnx.merge(graphdef, state, copy=True).features(x)[layer]

    energy = _energy(maps_of, place)
    total = np.zeros(images.shape[1:-1])
    for key in jax.random.split(jax.random.key(seed), draws):
        total += np.asarray(energy(state, images, key), np.float64)
    if not total.sum() > 0:
        raise ValueError("no pixel of the input moves this position")
    return total / total.sum()


def _energy(maps_of: Callable, place: tuple[int, ...]) -> Callable:
    @jax.jit
    def energy(state, x, key):
        def projected(x):
            at = maps_of(state, x)[(slice(None), *place)].astype(jnp.float32)
            return jnp.vdot(at, jax.random.normal(key, at.shape))

        return jnp.square(jax.grad(projected)(x).astype(jnp.float32)).sum(-1).mean(0)

    return energy


def half_energy_radius(field: np.ndarray, centre: tuple[float, ...] | None = None) -> float:
    """Return the distance from ``centre``, in pixels, that holds half of a field ``[H, W]``.

    ``centre`` is the field's middle unless given; of a clip ``[T, H, W]`` frames are added up.

    Raises:
      ValueError: the field is no map, or has nothing in it.
    """
    field = np.asarray(field, np.float64)
    if field.ndim == 3:
        field = field.sum(0)
    if field.ndim != 2 or not field.sum() > 0 or field.min() < 0:
        raise ValueError(f"field has shape {field.shape}; expected [H, W] of energies")
    rows, columns = (np.arange(n) for n in field.shape)
    y, x = ((n - 1) / 2 for n in field.shape) if centre is None else centre
    distance = np.hypot(rows[:, None] - y, columns[None] - x)
    order = np.argsort(distance, axis=None)
    share = np.cumsum(field.ravel()[order]) / field.sum()
    return float(distance.ravel()[order][np.searchsorted(share, 0.5)])
