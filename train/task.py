# SPDX-License-Identifier: Apache-2.0
"""The protocol of a task: its batches, loss, metrics, and what it adds to a run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np
from flax import nnx

from spectral_flax.analysis.map_sizes import fewest_rows
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.models.record import Card
from train.config import Config, Data
from train.data.source import Source, Split
from train.errors import UserError

Batch = dict[str, jax.Array]
"""Arrays of a batch by name."""
Scalars = dict[str, jax.Array]
"""Figures by name."""
Direction = Literal["max", "min"]
"""When a metric is best."""


class Task(Protocol):
    """A task of a run: tasks inherit from this class, which holds what most of them do.

    Hashable, so that the compiled step can close over it.
    """

    model_options: dict[str, Any]
    """Options that the data demand of the model's constructor."""
    rows: tuple[str, ...] = ()
    """Those of ``metric_sums`` that hold a row an example: rows of all batches are concatenated."""
    players: tuple[str, ...] = ()
    """Parts of an adversarial model, updated one after another; empty: all at once."""

    def prepared(self, workdir: Path, *, begins: bool) -> "Task":
        """Return the task with the weights read that training needs besides the model's own.

        They come from where the options say when a run begins, later from its copy in ``workdir``.
        Evaluation does not call this.
        """
        return self

    def extended(self, model: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
        """Return the model with the parts that only training needs, such as a discriminator."""
        return model

    def weights_to_start(
        self, weights: Weights, skip: tuple[str, ...]
    ) -> tuple[Weights, tuple[str, ...]]:
        """Return weights of a file under the names of the trained model, and parts to skip."""
        return weights, skip

    def batch_shape(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shapes and dtypes of the arrays in a training batch."""

    def fewest_rows(self, model: nnx.Module) -> tuple[int, str]:
        """Return the rows of the smallest map that the network makes, and which one it is."""
        shape = self.batch_shape(1)["image"].shape
        return fewest_rows(model, jax.ShapeDtypeStruct(shape, np.float32))

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, Scalars]:
        """Return the mean loss of a batch and the scalars to log."""

    def output(self, model: nnx.Module, batch: Batch) -> jax.Array:
        """Return what the model gives for a batch, such as logits, in float32."""

    def output_shape(self, batch_size: int) -> tuple[int, ...]:
        """Return the shape that ``output`` must have for this task."""

    def metric_sums(self, model: nnx.Module, batch: Batch) -> Scalars:
        """Return sums over the valid examples of a batch, which add up over batches, and ``rows``.

        Rows are of every example, so that an array of validity has to be among them.
        """

    def metrics(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the metrics of the sums and rows of a whole data set; most telling first."""

    def detailed(self) -> "Task":
        """Return the task that also counts what `confusion_matrix` needs."""
        return self

    def confusion_matrix(self, sums: dict[str, np.ndarray]) -> np.ndarray | None:
        """Return how many examples of class i were taken for class j; None if there is none."""
        return None

    def scaled_by(self, card: Card) -> "Task":
        """Return the task that scales images as the model's card says.

        Raises:
          UserError: the task scales its images itself, or the card has other channels.
        """
        raise UserError(f"--scaling card: {type(self).__name__} scales its images itself")

    def annotated(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the images of a batch, uint8, with what the task asks for drawn on them."""
        return batch["image"]

    def results(self, model: nnx.Module, source: Source, count: int) -> Sequence[Any]:
        """Return columns of ``count`` images, ``uint8 [H, W, 3]`` each, that show the results."""
        return ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options of a task: each task's are a dataclass of this kind, with a default for every one."""

    @property
    def examples_together(self) -> int:
        """How many examples must be on one device."""
        return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """An entry of the table of tasks."""

    options: type[TaskOptions]
    """Class of the task's options."""
    make: Callable[[Config, Any, Source], Task]
    """Makes the task of a config, its options and its data."""
    data: dict[str, Callable[..., Source]]
    """Its data sets by name; those that users register are entered here."""
    open: Callable[[Split, Data, Any], Source]
    """Opens a split of the data set that the config names, given the options of the task."""
    metrics: dict[str, Direction]
    """Every metric, and whether it is best when high or low."""
    results: tuple[str, ...] = ()
    """Titles of the columns that ``Task.results`` returns, for ``results.png``; empty: none."""
    may_change: tuple[str, ...] = ()
    """Options that may have another value when a saved run goes on."""
