# SPDX-License-Identifier: Apache-2.0
"""Local copies of weights in buckets, for readers of local files."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from spectral_flax import buckets
from spectral_flax.checkpoints import manifest
from spectral_flax.checkpoints.runs import CONFIG, is_step, newest_step

if TYPE_CHECKING:
    from etils import epath


@contextlib.contextmanager
def bucket_copy(path: "epath.Path") -> Iterator[pathlib.Path]:
    """Yield a local copy of the weights at ``path``: a file, a folder, a run's newest checkpoint.

    What is copied of a checkpoint is what a model is made of: not the state of the optimiser. It
    goes with the block. An error of what reads the copy names ``path``.

    Raises:
      FileNotFoundError: there is nothing.
      ValueError: a checkpoint is not as it was written.
    """
    buckets.check_bucket(path)
    with tempfile.TemporaryDirectory() as root:
        copy = _copied(path, pathlib.Path(root))
        try:
            yield copy
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(path))) from error


def _copied(path: "epath.Path", root: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        buckets.fetch(path, root / path.name)
        return root / path.name
    place = newest_step(path)
    if place is None:
        names = buckets.listed(path, depth=1)
        if not names:
            raise FileNotFoundError(f"there is no object and no folder {path}")
        buckets.fetch_folder(path, root / path.name, names)
        return root / path.name
    fault = manifest.fault(place)
    if fault is not None:
        raise ValueError(f"the checkpoint {place} is damaged: {fault}")
    names = buckets.listed(place)
    if is_step(place):
        names = [n for n in names if n != manifest.NAME and not n.startswith("optimizer/")]
        about = place.parent.parent / CONFIG
        if about.exists():
            buckets.fetch(about, root / CONFIG)
    copy = root / "checkpoints" / place.name
    buckets.fetch_folder(place, copy, names)
    return copy
