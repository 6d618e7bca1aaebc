# SPDX-License-Identifier: Apache-2.0
"""Gradients of players that are updated one after another, as in the training of GANs."""

from collections.abc import Callable, Sequence

import jax
import optax

from train.run.optimizers import part_of

Leaves = dict[str, jax.Array]


def alternating_gradients(
    gradient: Callable, players: Sequence[str], update: Callable[[Leaves], Leaves]
) -> Callable:
    """Return a function like ``gradient`` that updates the players one after another.

    Each player sees the others as they are updated so far, all within one step.

    ``gradient(params, model_state, batch, key)`` is that of `train.run.step`; it runs
    once for each player, and the compiler drops what is not used of it. ``update`` returns the
    updates for gradients. The optimiser has to treat each player by itself, as `make_optimizer`
    does with the same ``players``: the updates of one must not depend on the gradients of the next.
    Scalars are those of the first player; the model state passes through all.
    """

    def alternating(params: Leaves, model_state: Leaves, batch, key):
        grads = {name: jax.numpy.zeros_like(leaf) for name, leaf in params.items()}
        updated, scalars = params, None
        for player in players:
            new, model_state, found = gradient(updated, model_state, batch, key)
            scalars = new if scalars is None else scalars
            mine = [name for name in params if part_of(name, players) == player]
            grads |= {name: found[name] for name in mine}
            updates = update(grads)
            steps = optax.apply_updates(params, updates)
            updated = updated | {name: steps[name] for name in mine}
        return scalars, model_state, grads

    return alternating
