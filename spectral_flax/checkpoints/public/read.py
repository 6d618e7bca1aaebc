# SPDX-License-Identifier: Apache-2.0
"""Public weights by the name of their row."""

import dataclasses

from spectral_flax.checkpoints import hub
from spectral_flax.checkpoints.public.download import download
from spectral_flax.checkpoints.public.table import PublicWeights, table
from spectral_flax.checkpoints.weights import Weights
from spectral_flax.files import cache_folder


def read_public(name: str, *, entry: str | None = None) -> Weights:
    """Return the weights of a row, with its record.

    Raises:
      OSError: they can not be fetched, or are to be fetched by hand; the message says what from
        where to where.
      ValueError: what was fetched is another file, or none of weights.
    """
    row = table()[name]
    if row.hub:
        weights = _from_hub(row, entry)
    else:
        path = download(row.url, row.filename, row.sha256) if row.url else _by_hand(row)
        try:
            weights = hub.read_file(path, entry=entry)
        except ValueError as error:
            raise ValueError(
                f"{error}. If a download was cut short, remove {path} and ask again"
            ) from error
    return dataclasses.replace(weights, record=row.record())


def _from_hub(row: PublicWeights, entry: str | None) -> Weights:
    folder = cache_folder() / row.hub.replace("/", "--")
    if folder.is_dir():
        return hub.read_folder(folder, entry=entry)
    try:
        return hub.read_hub(row.hub, entry=entry)
    except (OSError, ImportError) as error:
        raise type(error)(
            f"{error}; by hand: put model.safetensors of https://huggingface.co/{row.hub} in the "
            f"folder {folder}"
        ) from error


def _by_hand(row: PublicWeights):
    path = cache_folder() / row.filename
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"{row.name} is not downloaded by programs: get it from {row.page} and save it as {path}"
    )
