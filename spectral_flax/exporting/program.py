# SPDX-License-Identifier: Apache-2.0
"""What an exported file computes: a function of pixels, or of a prepared input, at one size."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.store import record_of
from spectral_flax.inference.preparation import normalized_as, preprocessing_of
from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.models.inpainting import masked_input

Inputs = Literal["pixels", "prepared"]


@dataclasses.dataclass(frozen=True)
class Input:
    """An argument of an exported function: its shape is without the batch, which comes first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    meaning: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of arrays with a batch axis in front, its arguments and its result."""

    function: Callable[..., jax.Array]
    inputs: tuple[Input, ...]
    output: str
    meaning: str

    def shapes(self, batch: int | None) -> list[jax.ShapeDtypeStruct]:
        """Return the arguments without values; None is a batch of any size, ``batch``."""
        (rows,) = jax.export.symbolic_shape("batch") if batch is None else (batch,)
        return [jax.ShapeDtypeStruct((rows, *one.shape), one.dtype) for one in self.inputs]

    def random_inputs(self, batch: int) -> list[np.ndarray]:
        """Return arguments to try the function on: always the same ones."""
        rng = np.random.default_rng(0)
        return [_random(rng, one, batch) for one in self.inputs]


def make_program(
    model: nnx.Module, size: tuple[int, int], frames: int | None, inputs: Inputs
) -> Program:
    """Return a model in evaluation mode as a function of images, or clips, of one size.

    "pixels" are uint8 RGB, normalised inside; an inpainting model takes a mask beside, and fills in
    at any size. "prepared" is the input of the model itself.

    Raises:
      ValueError: the model does not take the size, or gives something else than one array.
      TypeError: it does not say how pixels become its input.
    """
    model = evaluation_mode(model)
    record = record_of(model)
    time = () if frames is None else (frames,)
    build = {
        ("pixels", True): _filling,
        ("pixels", False): _of_pixels,
        ("prepared", True): _prepared,
        ("prepared", False): _prepared,
    }[inputs, record.task == "inpainting"]
    made = build(model, record, (*time, *size))
    _check(made, model, size)
    return made


_OUTPUTS = {
    "classification": ("logits", "float32 [N, classes]; their softmax are probabilities"),
    "segmentation": ("logits", "float32 [N, H, W, classes]; the largest is the class of a pixel"),
    "pose": ("heatmaps", "float32 [N, H/4, W/4, joints]; the maximum is where a joint is"),
    "inpainting": ("filled", "float32 [N, H, W, 3], values from 0 to 1"),
}
_ANY_OUTPUT = ("output", "float32, as the model gives it")


def _of_pixels(model, record, sizes) -> Program:
    about = preprocessing_of(model)
    channels = 1 if about.channel_order == "grey" else 3
    order = "grey values" if channels == 1 else "RGB"
    what = "frames of a clip" if len(sizes) == 3 else "an image"

    def function(images):
        return model(normalized_as(images, about)).astype(np.float32)

    meaning = f"pixels of {what}, {order} from 0 to 255"
    given = Input("images", "uint8", (*sizes, channels), meaning)
    return Program(function, (given,), *_OUTPUTS.get(record.task, _ANY_OUTPUT))


def _prepared(model, record, sizes) -> Program:
    channels = len(preprocessing_of(model).mean) + (record.task == "inpainting")

    def function(x):
        return model(x).astype(np.float32)

    given = Input("input", "float32", (*sizes, channels), "the input of the model, normalised")
    return Program(function, (given,), *_OUTPUTS.get(record.task, _ANY_OUTPUT))


def _filling(model, record, sizes) -> Program:
    height, width = sizes
    margins = [(0, 0), (0, -height % 8), (0, -width % 8), (0, 0)]

    def function(image, mask):
        pixels = image.astype(np.float32)
        # As a number first: not every runtime compares bytes.
        missing = jnp.minimum(mask.astype(np.float32), 1)[..., None]
        x, m = (jnp.pad(a, margins, mode="symmetric") for a in (pixels / 255, missing))
        y = model(masked_input(x, m)).astype(np.float32)
        filled = 255 * jnp.clip(y[:, :height, :width], 0, 1)
        return jnp.where(missing > 0, filled, pixels)

    image = Input("image", "uint8", (height, width, 3), "pixels of an image, RGB from 0 to 255")
    mask = Input("mask", "uint8", (height, width), "not 0 where the image is missing")
    meaning = "float32 [N, H, W, 3], from 0 to 255, to be rounded; known pixels are unchanged"
    return Program(function, (image, mask), "filled", meaning)


def _random(rng: np.random.Generator, one: Input, batch: int) -> np.ndarray:
    shape = (batch, *one.shape)
    if one.name == "mask":
        return (rng.random(shape) < 0.3).astype(np.uint8)
    if one.dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)


def _check(program: Program, model: nnx.Module, size: tuple[int, int]) -> None:
    """Trace the function, so that what the model does not take is told by the model."""
    told = f"{type(model).__name__} cannot be exported at size {size[0]}x{size[1]}"
    try:
        result: Any = jax.eval_shape(program.function, *program.shapes(1))
    except AttributeError as error:  # of a tuple or a dict
        raise ValueError(f"{told}: it gives something else than one array ({error})") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{told}: {error}") from error
    if result.ndim < 1 or result.shape[0] != 1:
        raise ValueError(f"{told}: its output {result.shape} has no batch axis in front")
