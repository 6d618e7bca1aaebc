# SPDX-License-Identifier: Apache-2.0
"""The protocol of a data set."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from spectral_flax.models.record import Preprocessing

Example = dict[str, Any]
"""Arrays of one example by name."""
Split = Literal["train", "test"]
"""The part of a data set."""


Augment = Callable[[Example, np.random.Generator], Example]


class Source(Protocol):
    """A data set with random access: item ``i`` is a dict of arrays.

    Data sets inherit from this class, which holds what most of them do. An item of the test split
    whose file cannot be read has ``valid`` 0.
    """

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: Sequence[str] = ()
    """Names of the classes; empty: their numbers."""
    views: int = 1
    """Views of the image or video that an item holds, in an axis of their own if there are any."""
    augment: Augment | None = None
    """Makes a training example of an item; None: the pipeline shifts and mirrors its image."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How an image or clip of any size becomes an example; None: as the model's card says."""
        channels = self.image_shape[-1]
        return Preprocessing(
            input_size=self.image_shape[:-1],
            fit="stretch",
            mean=self.mean,
            std=self.std,
            channel_order="grey" if channels == 1 else "RGB",
            stride=1,
        )

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __repr__(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Padded:
    """A source made ``length`` long; examples past its end repeat the first, with ``valid`` 0."""

    source: Source
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        inside = index < len(self.source)
        example = self.source[index if inside else 0]
        return example | {"valid": np.float32(inside) * np.float32(example.get("valid", 1))}
