# SPDX-License-Identifier: Apache-2.0
"""Device mesh and shardings."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train.config import Config, Mesh
from train.errors import UserError
from train.task import Task
from train.tasks import task_options

BATCH_AXES = ("data", "fsdp")


def make_mesh(mesh: Mesh) -> jax.sharding.Mesh:
    """Arrange the devices along ``data`` and ``fsdp``, which share the batch, and ``space``.

    Along ``space``, neighbours of one process, devices share the rows of images.

    Raises:
      UserError: there are fewer devices, or they do not form such a grid.
    """
    devices = jax.devices()
    count = mesh.devices or len(devices)
    if count > len(devices):
        raise UserError(f"--mesh.devices is {count}; there are {len(devices)} devices")
    if jax.process_count() > 1 and count < len(devices):
        raise UserError(
            f"--mesh.devices is {count}; {jax.process_count()} processes use all of their "
            f"{len(devices)} devices"
        )
    own = min(count, jax.local_device_count())
    if own % mesh.space:
        of = " of a process" if jax.process_count() > 1 else ""
        raise UserError(
            f"--mesh.space is {mesh.space}; expected a divisor of the {own} devices{of}"
        )
    if count % (mesh.fsdp * mesh.space):
        given = f" with --mesh.space {mesh.space}" if mesh.space > 1 else ""
        raise UserError(
            f"--mesh.fsdp is {mesh.fsdp}; expected a divisor of the {count} devices{given}"
        )
    grid = np.asarray(devices[:count]).reshape(-1, mesh.fsdp, mesh.space)
    return jax.sharding.Mesh(grid, (*BATCH_AXES, "space"), axis_types=(AxisType.Auto,) * 3)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis over all devices that share no image."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def split_rows(mesh: jax.sharding.Mesh, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Split the rows of a batch's images over the axis ``space``, evenly or not.

    For use in a compiled function: all that is computed from the images is split likewise.
    """
    if mesh.shape["space"] == 1:
        return batch
    image = batch["image"]  # [N, H, W, C] or [N, T, H, W, C]
    spec = PartitionSpec(BATCH_AXES, *[None] * (image.ndim - 4), "space")
    return batch | {"image": lax.with_sharding_constraint(image, NamedSharding(mesh, spec))}


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Return the sharding that gives every device the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: jax.sharding.Mesh, state: Any, min_size: int = Mesh.fsdp_min_size) -> Any:
    """Return a sharding for every leaf of a training state, by its shape alone.

    An array of ``min_size`` elements and more is split over the axis ``fsdp`` along the longest of
    its axes that it divides, the last of equals; the others are whole on every device.
    """
    parts = mesh.shape["fsdp"]

    def sharding(leaf):
        shape = np.shape(leaf)
        axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or not axes or np.prod(shape) < max(min_size, 1):
            return replicated(mesh)
        longest = max(axes, key=lambda axis: (shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(sharding, state)


def check_rows(mesh: jax.sharding.Mesh, task: Task, model: nnx.Module) -> None:
    """Refuse maps that have fewer rows than devices share them."""
    devices = mesh.shape["space"]
    rows, where = task.fewest_rows(model) if devices > 1 else (1, "")
    if rows < devices:
        height, width = task.batch_shape(1)["image"].shape[-3:-1]
        of = f"of images of {height} x {width} {where} have {rows} rows"
        raise UserError(f"--mesh.space is {devices}; {of}")


def check_batches(mesh: jax.sharding.Mesh, config: Config) -> None:
    """Refuse batches that the devices, or the parts of a step, do not divide."""
    pairs = task_options(config).examples_together
    shares = mesh.size // mesh.shape["space"]
    sharing = "devices" if shares == mesh.size else f"groups of {mesh.shape['space']} devices"
    for name, size, parts, examples in (
        ("batch-size", config.batch_size, config.accumulate, pairs),
        ("eval-batch-size", config.eval_batch_size, 1, 1),
    ):
        unit = shares * parts * examples
        if size % unit:
            below = size - size % unit
            near = " or ".join(str(size) for size in (below, below + unit) if size)
            steps = f" times the {parts} parts of --accumulate" if parts > 1 else ""
            steps += " times 2, for pairs to mix" if examples > 1 else ""
            raise UserError(
                f"--{name} is {size}; expected a multiple of the {shares} {sharing}{steps}, "
                f"such as {near}"
            )


def shard_batch(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Put this process's part of a batch on its devices, as part of the global batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def to_host(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """Return copies of all arrays in every process's own memory, however they are spread."""
    return jax.device_get(jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree))
