# SPDX-License-Identifier: Apache-2.0
"""An inpainting network as a function of images and masks of any size."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from spectral_flax.inference import refinement
from spectral_flax.kernels.convolution import whole_maps
from spectral_flax.kernels.cpu import compiler_options
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.memory import convolution_space, peak_memory
from spectral_flax.models.inpainting import Lama, masked_input

# What programs take, of the memory that is alive in their traces. Measured on the CPU for LaMa big:
# 1.03 planned by XLA at 512, and 1.8 for a step of refinement at 832, where the process took 2.5.
TIMES_ALIVE, TIMES_ALIVE_REFINING = 1.1, 2.5


class Generator:
    """A network in evaluation mode, which is compiled for each size that it is given.

    Images are padded at the bottom and on the right, by mirroring, to multiples of ``multiple``.
    """

    def __init__(self, model: nnx.Module, multiple: int = 8):
        self._model = evaluation_mode(model)
        self._graphdef, self._state = nnx.split(self._model)
        self._multiple = multiple

    def fill(
        self, images: np.ndarray, missing: np.ndarray, devices: Sequence[jax.Device] = ()
    ) -> np.ndarray:
        """Fill in: ``[N, H, W, 3], bool [N, H, W] -> [N, H, W, 3]``; known pixels are kept.

        With ``devices``, these share the rows of all maps.
        """
        height, width = missing.shape[1:]
        rows, columns = self._padded((height, width), len(devices))
        margins = [(0, 0), (0, rows - height), (0, columns - width), (0, 0)]
        arrays = _unit(images), missing.astype(np.float32)[..., None]
        arrays = [np.pad(a, margins, mode="symmetric") for a in arrays]
        state = self._state
        if devices:
            mesh = jax.make_mesh((len(devices),), ("space",), (AxisType.Auto,), devices=devices)
            by_rows = NamedSharding(mesh, PartitionSpec(None, "space"))
            arrays = jax.device_put(arrays, by_rows)
            state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        with whole_maps(not devices):
            filled = _compiled()(self._graphdef, state, *arrays)
        return _merged(images, missing, np.asarray(filled)[:, :height, :width])

    def refine(
        self,
        image: np.ndarray,
        missing: np.ndarray,
        finest: int,
        report: Callable[[str], None],
    ) -> np.ndarray:
        """Fill in by `refinement.refined`: ``[H, W, 3], bool [H, W] -> [H, W, 3]``."""
        filled = refinement.refined(self._model, _unit(image), missing, finest, report)
        return _merged(image, missing, filled)

    def memory(self, shape: tuple[int, int, int], devices: int = 1) -> int:
        """Return about how many bytes a device takes for ``[N, H, W]``, from a trace alone.

        Raises:
          ValueError: the model is no generator.
        """
        count, *size = shape
        rows, columns = self._padded(tuple(size), devices)
        maps = [jax.ShapeDtypeStruct((count, rows, columns, c), jnp.float32) for c in (3, 1)]
        state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self._state)
        with whole_maps(devices == 1):
            traced = _compiled().trace(self._graphdef, state, *maps)
        return _size(state) + (_size(maps) + _planned(traced, TIMES_ALIVE)) // devices

    def refinement_memory(self, size: tuple[int, int]) -> int:
        """Return about how many bytes `refine` takes where ``[H, W]`` is its finest scale.

        Raises:
          ValueError: the model is none that can be refined.
        """
        if not isinstance(self._model, Lama):
            raise ValueError(f"{type(self._model).__name__} is no LaMa, which refinement is for")
        traced = refinement.abstract_step(self._model, size)
        return _size(traced.in_avals) + _planned(traced, TIMES_ALIVE_REFINING)

    def _padded(self, size: tuple[int, int], devices: int) -> tuple[int, int]:
        units = math.lcm(self._multiple, devices or 1), self._multiple
        return tuple(-(-n // unit) * unit for n, unit in zip(size, units, strict=True))


def _unit(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 1]."""
    return images.astype(np.float32) / np.float32(_full(images))


def _full(images: np.ndarray) -> int:
    return 255 if images.dtype == np.uint8 else 1


def _merged(images: np.ndarray, missing: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Return the images with what is missing taken from ``filled``, which is in [0, 1]."""
    filled = filled * _full(images)
    if images.dtype == np.uint8:
        filled = np.rint(filled)
    filled = np.clip(filled, 0, _full(images)).astype(images.dtype)
    return np.where(missing[..., None], filled, images)


def _planned(traced: jax.stages.Traced, times: float) -> int:
    jaxpr = traced.jaxpr.jaxpr
    space = convolution_space(jaxpr) if jax.default_backend() == "cpu" else 0
    return int(times * peak_memory(jaxpr)) + space


def _size(arrays) -> int:
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(arrays))


@functools.cache
def _compiled():
    # Not at import: the choice of options initialises JAX's devices.
    return jax.jit(_fill, static_argnums=0, compiler_options=compiler_options())


def _fill(graphdef, state, image, mask):
    model = nnx.merge(graphdef, state)
    try:
        y = model(masked_input(image, mask))
    except ValueError as error:
        raise ValueError(f"{type(model).__name__} is no inpainting generator: {error}") from error
    if not hasattr(y, "shape") or y.shape != image.shape:
        raise ValueError(f"{type(model).__name__} is no inpainting generator")
    return y.astype(jnp.float32)
