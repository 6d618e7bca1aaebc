# SPDX-License-Identifier: Apache-2.0
"""What a task is to a run: its loss, its metrics and the shape of its batches."""

from typing import Any, Literal, Protocol

import jax
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.weights import Weights

Batch = dict[str, jax.Array]
Scalars = dict[str, jax.Array]
Direction = Literal["max", "min"]


class Task(Protocol):
    """Hashable, so that the compiled step may close over it."""

    model_options: dict[str, Any]
    """What the data demand of the model's constructor."""
    directions: dict[str, Direction]
    """Every figure of ``summary``, and whether it is best when high or low."""
    rows: tuple[str, ...]
    """Those of ``metrics`` that hold a row an example: rows of all batches are put together."""

    def weights_to_start(
        self, weights: Weights, skip: tuple[str, ...]
    ) -> tuple[Weights, tuple[str, ...]]:
        """Weights from a file under the names of what is trained, and which parts to skip."""

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the arrays in a training batch."""

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        """The mean loss of a batch and the scalars to log."""

    def metrics(self, model: nnx.Module, batch: Batch) -> Scalars:
        """Sums over the valid examples of a batch, which add up over batches, and ``rows``.

        Rows are of every example, so that an array of validity has to be among them.
        """

    def summary(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """The figures of the sums over the whole data set, and of its rows; most telling first."""
