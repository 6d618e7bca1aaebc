# SPDX-License-Identifier: Apache-2.0
"""What stays the same throughout a run, and what its compiled steps close over."""

from typing import NamedTuple

import jax
import optax

from train.checkpoints.state import Network
from train.config import Config
from train.task import Task


class Run(NamedTuple):
    """A run without its state."""

    config: Config
    mesh: jax.sharding.Mesh
    task: Task
    network: Network
    tx: optax.GradientTransformation
    learning_rate: optax.Schedule
