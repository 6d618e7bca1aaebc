# SPDX-License-Identifier: Apache-2.0
"""Which device holds what."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.config import Mesh
from train.errors import UserError

BATCH_AXES = ("data", "fsdp")


def make_mesh(mesh: Mesh) -> jax.sharding.Mesh:
    """Arrange the devices along the axes ``data`` and ``fsdp``; both share the batch."""
    devices = jax.devices()
    count = mesh.devices or len(devices)
    if count > len(devices):
        raise UserError(f"--mesh.devices is {count}; there are {len(devices)} devices")
    grid = np.asarray(devices[:count]).reshape(count, 1)
    return jax.sharding.Mesh(grid, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_sharding(mesh: jax.sharding.Mesh, state: Any) -> Any:
    """Return a sharding for every leaf of the training state: each device holds all of it."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), state)


def check_batch(mesh: jax.sharding.Mesh, name: str, batch_size: int) -> None:
    """Refuse a batch that the devices do not divide."""
    if batch_size % mesh.size:
        below = batch_size - batch_size % mesh.size
        near = [size for size in (below, below + mesh.size) if size]
        raise UserError(
            f"--{name} is {batch_size}; expected a multiple of the {mesh.size} devices, "
            f"such as {' or '.join(map(str, near))}"
        )


def place_batch(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Put this process's part of a batch on its devices, as part of the global batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
