# SPDX-License-Identifier: Apache-2.0
"""The local and the global channels of fast Fourier convolutions, as maps of their energy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from spectral_flax.arrays import as_floating
from spectral_flax.layers.ffc import FFC
from spectral_flax.layers.modes import evaluation_mode


class Paths(NamedTuple):
    """Mean squares of the channels of both paths, ``[N, (T,) H, W]``, float32."""

    local: np.ndarray
    global_: np.ndarray


def path_energies(model: nnx.Module, images: ArrayLike) -> dict[str, Paths]:
    """Return the energy of the local and of the global channels of a network's maps, by name.

    The names are those of ``features``; maps without global channels are left out. Running
    statistics are used and nothing is dropped.

    Raises:
      ValueError: no map of the network has global channels.
    """
    images = as_floating(images=images)
    shares = local_shares(model)
    graphdef, state = nnx.split(evaluation_mode(model))

    @jax.jit
    def run(state, x):
        maps = nnx.merge(graphdef, state, copy=True).features(x)
        energies = {}
        for name in shares.keys() & maps.keys():
            squares = jnp.square(maps[name].astype(jnp.float32))
            local = round(shares[name] * squares.shape[-1])
            energies[name] = squares[..., :local].mean(-1), squares[..., local:].mean(-1)
        return energies

    found = run(state, images)
    named = ((name, found[name]) for name in shares if name in found)
    return {name: Paths(*map(np.asarray, pair)) for name, pair in named}


def local_shares(model: nnx.Module) -> dict[str, float]:
    """Return the share of local channels in what each part of a network ends with.

    Raises:
      ValueError: no part has global channels.
    """
    shares = {}
    for path, module in sorted(
        nnx.iter_modules(model), key=lambda found: tuple(map(str, found[0]))
    ):
        if isinstance(module, FFC) and 0 < module.out_local < module.out_features:
            shares[str(path[0])] = module.out_local / module.out_features
    if not shares:
        raise ValueError(
            f"{type(model).__name__} has no map with local and global channels; networks with such "
            "are those of fast Fourier convolutions, ffc_* and lama"
        )
    return shares
