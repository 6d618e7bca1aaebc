# SPDX-License-Identifier: Apache-2.0
"""The step: a pure function from state and batch to the next state and the scalars to log."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from train.mesh import batch_sharding, state_sharding
from train.state import Leaves, Network, TrainState
from train.tasks import Batch, Scalars, Task


def make_train_step(
    network: Network,
    task: Task,
    tx: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    mesh: jax.sharding.Mesh,
    state: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, Scalars]]:
    """Compile the step for states like ``state``, which it consumes (the buffers are reused)."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def objective(params: Leaves):
            model = network.merge(params, state.rest)
            loss, scalars = task.loss(model, batch, key)
            return loss, (scalars, network.rest(model))

        grads = jax.value_and_grad(objective, has_aux=True)
        (loss, (scalars, rest)), grads = grads(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        scalars = {
            "loss": loss,
            **scalars,
            "gradient_norm": jnp.sqrt(sum(jnp.vdot(g, g) for g in grads.values())),
            "learning_rate": learning_rate(state.step),
        }
        return TrainState(state.step + 1, params, rest, opt_state, state.key), scalars

    everywhere = state_sharding(mesh, state)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(everywhere, batch_sharding(mesh)),
        out_shardings=(everywhere, state_sharding(mesh, 0)),
    )


def evaluated(model: nnx.Module) -> nnx.Module:
    """Return the model in evaluation mode, sharing its arrays."""
    mode = dict(deterministic=True, use_running_average=True)
    return nnx.view(model, raise_if_not_found=False, **mode)


def make_eval_step(
    network: Network, task: Task, mesh: jax.sharding.Mesh
) -> Callable[[Leaves, Leaves, Batch], Scalars]:
    """Compile the sums of the task's metrics over a batch, with the model in evaluation mode."""

    def eval_step(params: Leaves, rest: Leaves, batch: Batch) -> Scalars:
        return task.metrics(evaluated(network.merge(params, rest)), batch)

    return jax.jit(eval_step, out_shardings=state_sharding(mesh, 0))
