# SPDX-License-Identifier: Apache-2.0
"""The record of a run: everything but its state."""

from typing import NamedTuple

import jax
import optax

from train.checkpoints.state import Network
from train.config import Config
from train.task import Task


class Run(NamedTuple):
    """A run without its state; compiled steps close over it."""

    config: Config
    mesh: jax.sharding.Mesh
    task: Task
    network: Network
    tx: optax.GradientTransformation
    learning_rate: optax.Schedule
    frozen: frozenset[str] = frozenset()
