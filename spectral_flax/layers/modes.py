# SPDX-License-Identifier: Apache-2.0
"""Evaluation mode of a model."""

from flax import nnx


def evaluation_mode(model: nnx.Module) -> nnx.Module:
    """Return ``model`` with running statistics and without dropout, sharing its arrays.

    ``model`` itself stays in the mode that it is in, unlike with ``model.eval()``.
    """
    mode = dict(use_running_average=True, deterministic=True)
    return nnx.view(model, raise_if_not_found=False, **mode)
