# SPDX-License-Identifier: Apache-2.0
"""The training step of a full-size network, compiled from shapes alone: no array is made."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import spectral_flax as sf
from train.checkpoints.state import Leaves, TrainState, split
from train.config import Config
from train.run.mesh import make_mesh
from train.run.optimizers import make_optimizer
from train.run.record import Run
from train.run.step import make_train_step
from train.tasks.classification.task import Classification


class CompiledStep(NamedTuple):
    """The program, and the shapes of the parameters and of the rest of the network's state."""

    program: jax.stages.Compiled
    params: Leaves
    rest: Leaves


def compiled_step(config: Config, size: int) -> CompiledStep:
    """Compile the step that ``config`` describes for square images of ``size`` in 1000 classes."""
    task = Classification(1000, (size, size, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
    networks = []

    def leaves():
        model = sf.create_model(config.model, rngs=nnx.Rngs(0))
        model.train()
        network, params, rest = split(model)
        networks.append(network)
        return params, rest

    params, rest = jax.eval_shape(leaves)
    rate = lambda step: 0.1
    tx = make_optimizer(config.optimizer, rate)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    state = TrainState(scalar, params, rest, jax.eval_shape(tx.init, params), key, {}, scalar)
    step = make_train_step(Run(config, make_mesh(config.mesh), task, networks[0], tx, rate), state)
    program = step.lower(state, task.batch_shape(config.batch_size)).compile()
    return CompiledStep(program, params, rest)
