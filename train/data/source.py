# SPDX-License-Identifier: Apache-2.0
"""What a data set is to the pipeline."""

import dataclasses
from typing import Any, Literal, Protocol

import numpy as np

Example = dict[str, Any]
Split = Literal["train", "test"]


class Source(Protocol):
    """A data set with random access: item ``i`` is a dict of arrays.

    It may have a method ``augment(example, generator)``, which makes a training example of an
    item; what an item of the training split holds is then between the two. An item of the test
    split whose file cannot be read has ``valid`` 0.
    """

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

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
