# SPDX-License-Identifier: Apache-2.0
"""Memory and messages of a training step spread over eight devices, against one device.

`python -m benchmarks.devices [NAME...] [--batch 64] [--size 64]`: for each model the collectives of
the compiled step, and the temporary memory a device needs, on one and on eight simulated devices.
"""

import argparse
import collections
import os
import re

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import spectral_flax as sf

COLLECTIVES = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"


def compiled(name: str, batch: int, size: int, devices: int):
    """Compile forward, loss and gradient of a model with the batch split over devices."""
    model = sf.abstract_model(name)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    copied, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))

    def step(params, rest, x):
        def loss(params):
            trained = nnx.merge(graphdef, params, rest, copy=True)
            return jnp.square(trained(x)).mean(), nnx.state(trained, nnx.Not(nnx.Param))

        return jax.value_and_grad(loss, has_aux=True)(params)

    shaped = lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)
    params, rest = jax.tree.map(lambda a: shaped(a, copied), (params, rest))
    x = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32, sharding=split)
    return jax.jit(step).lower(params, rest, x).compile()


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["ffc_resnet18", "ffc_resnext50_32x4d"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    for name in args.names:
        temporary = {}
        for devices in (1, 8):
            program = compiled(name, args.batch, args.size, devices)
            temporary[devices] = program.memory_analysis().temp_size_in_bytes / 2**20
        found = re.findall(rf" ({COLLECTIVES})(?:-start)?\(", program.as_text())
        one, eight = temporary[1], temporary[8]
        print(f"{name}: on 8 devices {dict(collections.Counter(found)) or 'no collectives'};")
        print(f"  temporary memory {one:.0f} MiB on one, {eight:.0f} MiB on each of eight", end=" ")
        print(f"({one / eight:.1f} times less)", flush=True)


if __name__ == "__main__":
    main()
