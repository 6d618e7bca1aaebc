"""What a compiled program sends between devices."""

import re

import jax
from jax.sharding import NamedSharding, PartitionSpec

from spectral_flax.analysis.collectives import collectives

# What moves parts of arrays between devices, as no activation should.
MOVES = "(?:all-gather|all-to-all|collective-permute)"


def count(function, *args, kind=MOVES) -> int:
    """The number of collectives of one kind in the compiled program."""
    found = collectives(jax.jit(function).lower(*args).compile().as_text())
    return sum(of.count for name, of in found.items() if re.fullmatch(kind, name))


def split(mesh, x):
    """Spread a batch over the devices of the mesh."""
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def copied(mesh, tree):
    """Copy arrays to all devices."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
