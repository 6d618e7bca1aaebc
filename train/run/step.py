# SPDX-License-Identifier: Apache-2.0
"""The training step: a pure function from state and batch to the next state and scalars."""

import gc
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec

from spectral_flax.kernels import whole_maps
from spectral_flax.kernels.cpu import compiler_options
from spectral_flax.layers.modes import evaluation_mode
from train.checkpoints.state import Leaves, Network, TrainState
from train.config import Config
from train.run.adversarial import alternating_gradients
from train.run.mesh import BATCH_AXES, batch_sharding, replicated, split_rows, state_sharding
from train.run.record import Run
from train.task import Batch, Scalars, Task

# From parameters, model state, a batch and a key to scalars, model state and gradients.
Gradient = Callable[[Leaves, Leaves, Batch, jax.Array], tuple[Scalars, Leaves, Leaves]]


def make_train_step(
    run: Run, state: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, Scalars]]:
    """Compile the step for states like ``state``, which it consumes (the buffers are reused).

    The global view (pjit) is one program over the whole batch, which XLA splits; per device (pmap)
    it is one program a device over its part, whose gradients and statistics are averaged.
    """
    config, mesh, task, network, tx, learning_rate, frozen = run
    everywhere = state_sharding(mesh, state, config.mesh.fsdp_min_size)
    whole = replicated(mesh)
    per_device = config.parallel == "pmap"
    gradient = _gradient(network, task, config, BATCH_AXES if per_device else None, frozen)
    if config.accumulate > 1:
        gradient = _accumulated(gradient, config.accumulate)
    if per_device:
        gradient = _per_device(gradient, network, mesh)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        # Shared parameters are gathered here, all of them, lest XLA gather activations instead.
        params = lax.with_sharding_constraint(state.params, whole)
        batch = split_rows(mesh, batch)
        compute = gradient
        if task.players:
            update = lambda grads: tx.update(grads, state.opt_state, state.params)[0]
            compute = alternating_gradients(gradient, task.players, update)
        with whole_maps(mesh.shape["space"] == 1):
            scalars, model_state, grads = compute(params, state.model_state, batch, key)
        norm = optax.tree.norm(grads)
        grads = lax.with_sharding_constraint(grads, everywhere.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = _update_ema(state.ema_params, params, config.ema_decay, state.step)
        new = (params, model_state, opt_state, ema_params)
        skipped = state.skipped
        if config.non_finite == "skip":
            finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(norm)
            old = (state.params, state.model_state, state.opt_state, state.ema_params)
            new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
            skipped += 1 - finite.astype(skipped.dtype)
            scalars = scalars | {"skipped": skipped}
        params, model_state, opt_state, ema_params = new
        scalars = scalars | {"gradient_norm": norm, "learning_rate": learning_rate(state.step)}
        step = state.step + 1
        return TrainState(
            step, params, model_state, opt_state, state.key, ema_params, skipped
        ), scalars

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(everywhere, batch_sharding(mesh)),
        out_shardings=(everywhere, whole),
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )


def compile_step(step: Callable, run: Run, state: TrainState) -> jax.stages.Compiled:
    """Compile a training step for the batches that the task declares, before there is one.

    While the result is held, calls of ``step`` with such batches find the program; one with others
    compiles its own.
    """
    sharding = batch_sharding(run.mesh)
    shapes = run.task.batch_shape(run.config.batch_size)
    batch = {
        name: jax.ShapeDtypeStruct(of.shape, of.dtype, sharding=sharding)
        for name, of in shapes.items()
    }
    collects = gc.isenabled()
    gc.disable()  # tracing makes many objects and few cycles: a sixth of its time
    try:
        lowered = step.lower(state, batch)
    finally:
        if collects:
            gc.enable()
    return lowered.compile()


def _gradient(
    network: Network, task: Task, config: Config, axes: Any, frozen: Collection[str]
) -> Gradient:
    """Return the gradient of the task's loss; ``axes`` are those of devices that each run it.

    It is zero, and not computed, for the ``frozen`` parameters.
    """
    mode = {}
    if axes is not None and config.sync_batch_norm:
        mode["axis_name"] = axes
    if config.remat:
        mode["remat"] = True

    def objective(params: Leaves, model_state: Leaves, batch: Batch, key: jax.Array):
        held = {name: lax.stop_gradient(params[name]) for name in frozen}
        model = network.merge(params | held, model_state)
        viewed = nnx.view(model, raise_if_not_found=False, **mode) if mode else model
        loss, scalars = task.loss(viewed, batch, key)
        return loss, ({"loss": loss} | scalars, network.model_state(model))

    def gradient(params: Leaves, model_state: Leaves, batch: Batch, key: jax.Array):
        grads, (scalars, model_state) = jax.grad(objective, has_aux=True)(
            params, model_state, batch, key
        )
        return scalars, model_state, grads

    return gradient


def _accumulated(gradient: Gradient, parts: int) -> Gradient:
    """Return the mean over the ``parts`` of a batch, computed one after another.

    Batch normalisation sees the parts one by one. Part ``i`` holds every ``parts``-th example from
    the ``i``-th on, so that each device keeps those it has.
    """

    def accumulated(params: Leaves, model_state: Leaves, batch: Batch, key: jax.Array):
        def part(model_state: Leaves, given: tuple[Batch, jax.Array]):
            batch, key = given
            scalars, model_state, grads = gradient(params, model_state, batch, key)
            return model_state, (scalars, grads)

        def split(a: jax.Array) -> jax.Array:
            return jnp.moveaxis(a.reshape(-1, parts, *a.shape[1:]), 1, 0)

        def add(carried, given):
            model_state, sums = carried
            model_state, new = part(model_state, given)
            return (model_state, jax.tree.map(jnp.add, sums, new)), None

        given = jax.tree.map(split, batch), jax.random.split(key, parts)
        first = jax.tree.map(lambda a: a[0], given)
        zeros = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(part, model_state, first)[1]
        )
        (model_state, sums), _ = lax.scan(add, (model_state, zeros), given)
        scalars, grads = jax.tree.map(lambda a: a / parts, sums)
        return scalars, model_state, grads

    return accumulated


def _per_device(gradient: Gradient, network: Network, mesh: jax.sharding.Mesh) -> Gradient:
    """Return ``gradient`` run by each device on its part of the batch, and averaged.

    Random numbers differ between devices. Running statistics are averaged too, so that all
    devices end with the same, whether or not batch normalisation looked at the whole batch.
    """

    def local(params: Leaves, model_state: Leaves, batch: Batch, key: jax.Array):
        index = lax.axis_index(BATCH_AXES)
        own = model_state | {name: _folded(model_state[name], index) for name in network.keys}
        scalars, new, grads = gradient(params, own, batch, jax.random.fold_in(key, index))
        statistics = {n: a for n, a in new.items() if jnp.issubdtype(a.dtype, jnp.floating)}
        means = lax.pmean((scalars, statistics, grads), BATCH_AXES)
        kept = {name: model_state[name] for name in network.keys}
        return means[0], new | means[1] | kept, means[2]

    whole, split = PartitionSpec(), PartitionSpec(BATCH_AXES)
    # Without the check of replication, under which gradients would be summed a second time.
    options = dict(mesh=mesh, in_specs=(whole, whole, split, whole), out_specs=whole)
    return jax.shard_map(local, check_vma=False, **options)


def _folded(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), index))


def _update_ema(ema_params: Leaves, params: Leaves, decay: float, step: jax.Array) -> Leaves:
    """Update the moving average of the parameters: ``ema = d * ema + (1 - d) * params``.

    The decay is warmed up: ``d = min(decay, (1 + t) / (10 + t))`` at step t.
    """
    step = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    return {n: kept * a + (1 - kept) * params[n].astype(a.dtype) for n, a in ema_params.items()}


def make_eval_step(
    network: Network, task: Task, mesh: jax.sharding.Mesh
) -> Callable[[Leaves, Leaves, Batch], Scalars]:
    """Compile the sums of the task's metrics over a batch, with the model in evaluation mode."""

    def eval_step(params: Leaves, model_state: Leaves, batch: Batch) -> Scalars:
        params = lax.with_sharding_constraint(params, replicated(mesh))
        batch = split_rows(mesh, batch)
        model = evaluation_mode(network.merge(params, model_state))
        with whole_maps(mesh.shape["space"] == 1):
            return task.metric_sums(model, batch)

    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(eval_step, out_shardings=replicated(mesh), compiler_options=options)
