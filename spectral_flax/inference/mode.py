# SPDX-License-Identifier: Apache-2.0
"""Models in evaluation mode: running statistics in use, dropout off."""

from flax import nnx


def evaluation_mode(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State]:
    """Return ``nnx.split`` of a view of ``model`` in evaluation mode; the model is unchanged."""
    mode = dict(use_running_average=True, deterministic=True)
    return nnx.split(nnx.view(model, raise_if_not_found=False, **mode))
