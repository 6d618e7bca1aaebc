# SPDX-License-Identifier: Apache-2.0
"""StableHLO: programs that `jax.export.deserialize` reads, on CPUs, GPUs and TPUs."""

import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.export
import numpy as np
from flax import nnx

from spectral_flax.exporting.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")


def adapted(model: nnx.Module) -> nnx.Module:
    """Return the model as it is: JAX's own format has all its operations."""
    return model


def write(program: Program, batch: int | None, path: pathlib.Path, metadata: str) -> None:
    """Write a program with its weights inside; None is a batch of any size.

    The format has no room for ``metadata``.
    """
    exported = jax.export.export(jax.jit(program.function), platforms=PLATFORMS)(
        *program.shapes(batch)
    )
    path.write_bytes(exported.serialize())


def reader(path: pathlib.Path) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return the function in a file, as somebody without this library calls it."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda arrays: np.asarray(exported.call(*arrays))


def check_extra() -> None:
    """Do nothing: JAX itself has all that is needed."""
