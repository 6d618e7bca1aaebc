# SPDX-License-Identifier: Apache-2.0
"""Memory of each device and bytes moved, where devices share the rows of an image.

The network is compiled for simulated devices, from shapes alone: nothing is allocated or run.
Convolutions are JAX's, as on GPUs and TPUs, whose compilers may take more or less.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from spectral_flax.analysis.collectives import Collective, collectives
from spectral_flax.analysis.map_sizes import fewest_rows
from spectral_flax.kernels.convolution import whole_maps
from spectral_flax.layers.modes import evaluation_mode


@dataclasses.dataclass(frozen=True)
class DeviceCost:
    """Bytes on each of several devices in one forward pass, and what a device receives.

    ``arguments`` are the weights, whole, and the device's part of the images; ``temporary`` is all
    that lives at once between them and the ``result``.
    """

    devices: int
    arguments: int
    temporary: int
    result: int
    moved: dict[str, Collective]

    @property
    def memory(self) -> int:
        return self.arguments + self.temporary + self.result


def simulate_devices(count: int) -> None:
    """Let the CPU be ``count`` devices, which only a process can that has not used JAX before.

    Raises:
      ValueError: there are fewer, and it is too late.
    """
    with contextlib.suppress(RuntimeError):  # it is too late, but there may be as many
        jax.config.update("jax_num_cpu_devices", count)
    found = len(jax.devices("cpu"))
    if found < count:
        raise ValueError(f"{count} devices can not be simulated; this process has {found} already")


def profile_over_devices(
    model: nnx.Module, shape: Sequence[int], devices: int, *, dtype: DTypeLike = jnp.float32
) -> DeviceCost:
    """Return the cost of ``model`` on images ``[N, ..., H, W, C]`` whose rows devices share.

    ``model`` may be abstract (`abstract_model`); it is taken in evaluation mode and left alone.

    Raises:
      ValueError: there are more devices than rows of the images or of the smallest maps, or than
        are simulated: `simulate_devices`.
    """
    height = shape[-3]
    fewest, where = fewest_rows(model, jax.ShapeDtypeStruct(tuple(shape), dtype))
    if not 1 <= devices <= fewest:
        raise ValueError(f"devices={devices}; expected 1 to {fewest}, the rows of {where}")
    if devices > len(jax.devices("cpu")):
        raise ValueError(f"devices={devices}; {len(jax.devices('cpu'))} are simulated")
    types = (AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("space",), types, devices=jax.devices("cpu")[:devices])
    rows = NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 3), "space"))
    whole = NamedSharding(mesh, PartitionSpec())
    graphdef, state = nnx.split(evaluation_mode(model))

    def run(state, x):
        return nnx.merge(graphdef, state)(lax.with_sharding_constraint(x, rows))

    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    # The parts of arguments have to be equal, unlike those of what is computed from them.
    images = rows if height % devices == 0 else whole
    function = jax.jit(run, in_shardings=(whole, images))
    with whole_maps(False):
        program = function.lower(abstract, jax.ShapeDtypeStruct(tuple(shape), dtype)).compile()
    memory = program.memory_analysis()
    return DeviceCost(
        devices,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes,
        collectives(program.as_text()),
    )
