# SPDX-License-Identifier: Apache-2.0
"""Upload of a model, with its record and a page that describes it, to the Hub."""

import dataclasses

from flax import nnx

from spectral_flax.checkpoints import hub
from spectral_flax.checkpoints.store import record_of
from spectral_flax.checkpoints.weights import Weights, variables


def push_to_hub(
    model: nnx.Module, repository: str, *, private: bool = False, overwrite: bool = False
) -> None:
    """Upload a model to ``owner/name`` on the Hub, which is made if it does not exist.

    With the weights go the model's record and a page that describes it; where its data lay on this
    machine is left out. Needs ``pip install "spectral-flax[hub]"`` and a token of the Hub.

    Raises:
      FileExistsError: the repository has a model, and ``overwrite`` is not set.
      ValueError: the model has no record.
    """
    record = record_of(model)
    data = dict(record.run.get("data", {}), path=None)
    record = dataclasses.replace(record, run={**record.run, "data": data} if record.run else {})
    weights = Weights(variables(model), "flax", record)
    hub.push_to_hub(repository, weights, private=private, overwrite=overwrite)
