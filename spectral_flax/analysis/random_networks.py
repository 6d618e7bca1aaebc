# SPDX-License-Identifier: Apache-2.0
"""Random networks in which every block takes part, to be looked at before any training.

As published, many blocks add nothing at first: a scale, a gate or displacements start at zero. And
running statistics are 0 and 1 until a network has seen images.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.arrays import as_floating
from spectral_flax.layers.deformable import DeformableConv
from spectral_flax.layers.norm import BatchNorm

GATES = ("scale", "gate", "gamma")
"""Names of parameters that multiply what a block adds."""
DISPLACEMENT = 2.0
"""Standard deviation of the displacements that are drawn, in positions of the map."""


def open_gates(model: nnx.Module, *, seed: int = 0) -> list[str]:
    """Set gates that are zero to one and draw displacements that are; return their names.

    Displacements of deformable convolutions get a standard deviation of `DISPLACEMENT` positions
    where the input is normalised and rectified. What is not zero stays as it is.
    """
    opened = []
    key = jax.random.key(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] in GATES and not np.any(variable[...]):
            variable[...] = jnp.ones_like(variable[...])
            opened.append(".".join(map(str, path)))
    for path, module in nnx.iter_modules(model):
        if isinstance(module, DeformableConv) and not np.any(module.offset.kernel[...]):
            kernel = module.offset.kernel
            key, draw = jax.random.split(key)
            std = DISPLACEMENT * math.sqrt(2 / math.prod(kernel.shape[:-1]))
            kernel[...] = std * jax.random.normal(draw, kernel.shape, kernel[...].dtype)
            opened.append(".".join(map(str, (*path, "offset", "kernel"))))
    return opened


def set_batch_statistics(model: nnx.Module, images: jax.Array) -> None:
    """Replace the running statistics of all batch normalisations by those of ``images``."""
    images = as_floating(images=images)
    mode = dict(use_running_average=False, deterministic=True)
    graphdef, state = nnx.split(nnx.view(model, raise_if_not_found=False, **mode))

    @jax.jit
    def statistics(state, x):
        network = nnx.merge(graphdef, state, copy=True)
        for _, module in nnx.iter_modules(network):
            if isinstance(module, BatchNorm):
                module.momentum = 0.0
        network(x)
        return nnx.state(network, nnx.BatchStat)

    nnx.update(model, statistics(state, images))
