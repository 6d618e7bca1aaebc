# SPDX-License-Identifier: Apache-2.0
"""Gradients of adversaries: parts of a model that move in turn, each against those as moved."""

from collections.abc import Callable, Sequence

import jax
import optax

from train.run.optimizers import part_of

Leaves = dict[str, jax.Array]


def in_turn(gradient: Callable, parts: Sequence[str], move: Callable[[Leaves], Leaves]) -> Callable:
    """Return ``gradient`` of the parts one after another, as of one step.

    ``gradient(params, rest, batch, key)`` is that of `train.run.step`; it runs once for each part,
    and the compiler drops what is not used of it. ``move`` gives the updates for gradients. The
    optimiser has to treat the parts each by itself, as `make_optimizer` does with
    the same ``turns``: the updates of a part that has moved must not depend on those to come.
    Scalars are those of the first turn; statistics pass through all turns.
    """

    def turns(params: Leaves, rest: Leaves, batch, key):
        grads = {name: jax.numpy.zeros_like(leaf) for name, leaf in params.items()}
        moved, scalars = params, None
        for part in parts:
            new, rest, found = gradient(moved, rest, batch, key)
            scalars = new if scalars is None else scalars
            mine = [name for name in params if part_of(name, parts) == part]
            grads |= {name: found[name] for name in mine}
            updates = move(grads)
            steps = optax.apply_updates(params, updates)
            moved = moved | {name: steps[name] for name in mine}
        return scalars, rest, grads

    return turns
