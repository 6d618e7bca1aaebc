# SPDX-License-Identifier: Apache-2.0
"""Examples: sources with random access, and the Grain pipelines that turn them into batches.

The pipeline is one infinite, seeded sequence of examples, of which each process takes every n-th:
batch ``k`` holds the same examples whatever the number of processes, and its position is one
number, kept in the checkpoint.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import grain
import jax
import numpy as np

from train.config import Config, Data
from train.errors import UserError

Example = dict[str, Any]
Split = Literal["train", "test"]


class Source(Protocol):
    """A data set with random access: item ``i`` is a dict of arrays."""

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __repr__(self) -> str: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Images ``uint8 [N, H, W, C]`` with one label each, held in memory."""

    name: str
    images: np.ndarray = dataclasses.field(repr=False)
    labels: np.ndarray = dataclasses.field(repr=False)
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": np.int32(self.labels[index])}


def mnist5k(split: Split) -> Arrays:
    """Handwritten digits that live in the repository: 4000 to train on, 1000 to test."""
    with np.load(Path(__file__).parent / "embedded" / "mnist5k.npz") as file:
        images, labels = file["images"][..., None], file["labels"]
    part = slice(0, 4000) if split == "train" else slice(4000, 5000)
    return Arrays(f"mnist5k/{split}", images[part], labels[part], 10, mean=(0.1307,), std=(0.3081,))


SOURCES: dict[str, Callable[[Split], Source]] = {"mnist5k": mnist5k}

# Data sets of other tasks: the module whose ``open_split(name, split, data)`` opens them.
TASK_SOURCES = {
    "ellipses": "train.segmentation.data",
    "image_mask_folders": "train.segmentation.data",
    "textures": "train.inpainting.data",
    "image_folder": "train.inpainting.data",
    "stick_figures": "train.pose.data",
    "coco_keypoints": "train.pose.data",
}


def open_source(name: str, split: Split, data: Data | None = None) -> Source:
    """Open the data set ``name``; ``data`` holds what else a config says of it.

    Sources may have a method ``augment(example, generator)`` for training examples.
    """
    if name in SOURCES:
        return SOURCES[name](split)
    if name in TASK_SOURCES:
        module = importlib.import_module(TASK_SOURCES[name])
        return module.open_split(name, split, data or Data(name=name))
    known = [*SOURCES, *TASK_SOURCES]
    near = difflib.get_close_matches(name, known) or sorted(known)
    raise UserError(f"there is no data set {name!r}; closest: {', '.join(near)}")


def training_batches(config: Config, source: Source) -> Iterator[Example]:
    """Return this process's endless batches; ``get_state`` and ``set_state`` hold the position."""
    if config.batch_size > len(source):
        raise UserError(
            f"--batch-size is {config.batch_size}; the data set has {len(source)} examples"
        )
    examples = grain.MapDataset.source(source).seed(config.seed).shuffle().repeat(None)
    augment = getattr(source, "augment", None)
    if augment is not None:
        examples = examples.random_map(augment)
    elif config.data.shift:
        examples = examples.random_map(RandomShift(config.data.shift))
    return iter(
        _own(examples)
        .batch(config.batch_size // jax.process_count(), drop_remainder=True)
        .to_iter_dataset(
            grain.ReadOptions(
                num_threads=config.data.threads, prefetch_buffer_size=config.data.prefetch
            )
        )
    )


def evaluation_batches(source: Source, batch_size: int) -> Iterator[Example]:
    """Yield every example once, in order; the last batch is filled up with ``valid`` 0."""
    padded = grain.MapDataset.source(Padded(source, -(-len(source) // batch_size) * batch_size))
    yield from _own(padded).batch(batch_size // jax.process_count())


def _own(examples: grain.MapDataset) -> grain.MapDataset:
    return examples[jax.process_index() :: jax.process_count()]


@dataclasses.dataclass(frozen=True)
class RandomShift:
    """Move an image ``[..., H, W, C]`` by up to ``pixels`` along H and W; the border is black."""

    pixels: int

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image, p = example["image"], self.pixels
        height, width = image.shape[-3:-1]
        top, left = rng.integers(0, 2 * p + 1, size=2)
        frame = np.zeros(
            (*image.shape[:-3], height + 2 * p, width + 2 * p, image.shape[-1]), image.dtype
        )
        frame[..., p : p + height, p : p + width, :] = image
        return example | {"image": frame[..., top : top + height, left : left + width, :]}


@dataclasses.dataclass(frozen=True)
class Padded:
    """A source made ``length`` long; examples past its end repeat the first, with ``valid`` 0.

    Examples that the source itself calls not valid, such as broken files, stay so.
    """

    source: Source
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        own = index < len(self.source)
        example = self.source[index if own else 0]
        return example | {"valid": np.float32(own and example.get("valid", 1))}
