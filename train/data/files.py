# SPDX-License-Identifier: Apache-2.0
"""Labelled files, each read when it is needed; another replaces one that cannot be read."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from spectral_flax.models.record import Preprocessing
from train.data.source import Augment, Example, Source
from train.data.unreadable import UnreadableFiles


class Items(Protocol):
    """Labelled files, not yet read."""

    num_classes: int
    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name that users know the file by."""

    def load(self, index: int) -> tuple[Any, int]:
        """Return a path or an open binary file for the reader, and the label."""


class Reader(Protocol):
    """Decodes a file."""

    shape: tuple[int, ...]
    view_count: int

    def preprocessing(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
        """Return how a file becomes what the reader gives in a test."""

    def __call__(self, file: Any, rng: np.random.Generator | None) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Files(Source):
    """Files and their reader. In training an item is an index, since reading is random there.

    A file that cannot be read is reported once. Another takes its place in training, always the
    same one; in a test the example does not count (``valid`` 0).
    """

    name: str
    items: Items = dataclasses.field(repr=False)
    reader: Reader = dataclasses.field(repr=False)
    train: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unreadable: UnreadableFiles = dataclasses.field(default_factory=UnreadableFiles, repr=False)

    @property
    def num_classes(self) -> int:
        return self.items.num_classes

    @property
    def class_names(self) -> Sequence[str]:
        return self.items.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        return self.reader.preprocessing(self.mean, self.std)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one view: ``[H, W, C]``, ``[T, H, W, C]`` or ``[S, T, H, W, C]``."""
        return self.reader.shape

    @property
    def views(self) -> int:
        return self.reader.view_count

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        if self.train:
            return {"index": np.int64(index)}
        example = self._read(index, None)
        if example is None:
            views = (self.views,) if self.views > 1 else ()
            image = np.zeros((*views, *self.image_shape), np.uint8)
            return {"image": image, "label": np.int32(0), "valid": np.float32(0)}
        return example | {"valid": np.float32(1)}

    @property
    def augment(self) -> Augment | None:
        return self.read_training_example if self.train else None

    def read_training_example(self, example: Example, rng: np.random.Generator | None) -> Example:
        """Read the file of an item, or of another if it cannot be read, and vary it."""
        read = lambda index: self._read(index, rng)
        return self.unreadable.readable(int(example["index"]), len(self), read, self.name)

    def require_one_readable(self) -> None:
        """Raise a UserError if no file can be read, before anything depends on it."""
        self.read_training_example({"index": 0}, np.random.default_rng(0) if self.train else None)

    def _read(self, index: int, rng: np.random.Generator | None) -> Example | None:
        def load() -> Example:
            file, label = self.items.load(index)
            return {"image": self.reader(file, rng), "label": np.int32(label)}

        return self.unreadable.read(self.items.name(index), load)
