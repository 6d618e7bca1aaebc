# SPDX-License-Identifier: Apache-2.0
"""Rematerialisation: a model that recomputes its blocks in the backward pass."""

import jax
from flax import nnx


class Rematerialisable(nnx.Module):
    """A model that recomputes its blocks in the backward pass, to save memory.

    ``nnx.view(model, remat=True)`` turns that on: of each block that the model calls through
    `_run`, only the input is kept, and the backward pass computes the block again from it.
    Results, statistics and random numbers are the same to rounding.

    Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """

    remat = False

    def set_view(self, remat: bool | None = None) -> None:
        if remat is not None:
            self.remat = remat

    # Private, because `nnx.tabulate` calls every public method in place of the module.
    def _run(self, block: nnx.Module, *args: jax.Array) -> jax.Array:
        """Return ``block(*args)``."""
        return _apply_again(block, *args) if self.remat else block(*args)


# A checkpoint for each block, not one with a policy around the model: only so does the second
# computation of a block wait for the gradient that asks for it.
@nnx.remat
def _apply_again(block: nnx.Module, *args: jax.Array) -> jax.Array:
    return block(*args)
