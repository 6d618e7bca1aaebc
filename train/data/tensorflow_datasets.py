# SPDX-License-Identifier: Apache-2.0
"""Image classification sets of TensorFlow Datasets, read from ArrayRecord without TensorFlow."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectral_flax import buckets
from spectral_flax.files import any_path
from train.config import Data
from train.data.shard_cache import Shards
from train.data.source import Split
from train.errors import UserError
from train.processes.paths import opened_path

_HELD_OUT = ("validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Encoded images and labels of one split."""

    title: str
    records: Any
    image: str
    target: str
    class_names: Sequence[str]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def load(self, index: int) -> tuple[io.BytesIO, int]:
        record = self.records[index]
        label = int(record[self.target])
        if not 0 <= label < self.num_classes:  # -1: labels that the authors withhold
            raise UserError(
                f"{self.name(index)} has the label {label}; expected 0 ... {self.num_classes - 1}"
            )
        return io.BytesIO(record[self.image]), label


def records(name: str, split: Split, data: Data) -> Records:
    """Open the set ``name`` below ``data.path`` (None: where TensorFlow Datasets keeps its own).

    The test split is ``validation`` where there is one, else ``test``.

    Raises:
      UserError: it is not prepared, not in ArrayRecord or not about one label an image.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(f"{name!r} needs an extra: pip install 'spectral-flax[tfds]'") from error
    folder, num_classes = data.path, data.num_classes
    place = {} if folder is None else {"data_dir": opened_path("--data.path", folder)}
    where = f" --data_dir={folder}" if folder else ""
    prepare = (
        f"prepare it once, where TensorFlow is installed:\n"
        f"  tfds build {name} --file_format=array_record{where}"
    )
    try:
        # From the prepared files alone: the code that made them may need TensorFlow.
        builder = tfds.builder(name, try_gcs=False, **place)
    except (tfds.core.DatasetNotFoundError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot open the data set {name!r} ({reason}); {prepare}") from error
    splits = builder.info.splits
    if not builder.data_path.exists() or not splits:
        raise UserError(f"the data set {name!r} is not in {str(builder.data_path)!r}; {prepare}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        kept = builder.info.file_format.value
        raise UserError(f"{str(builder.data_path)!r} is in the format {kept}; {prepare}")
    wanted = ("train",) if split == "train" else _HELD_OUT
    part = next((part for part in wanted if part in splits), None)
    if part is None:
        raise UserError(f"{name!r} has the splits {sorted(splits)}; expected {' or '.join(wanted)}")
    image, target, names = _features(name, builder.info, tfds)
    if num_classes is not None and num_classes != len(names):
        raise UserError(f"--data.num-classes is {num_classes}; {name!r} has {len(names)} classes")
    source = builder.as_data_source(part, decoders={image: tfds.decode.SkipDecoding()})
    if buckets.is_remote(place.get("data_dir", Path())):
        files = splits[part].file_instructions
        paths = [any_path(file.filename) for file in files]
        counts = [file.examples_in_shard for file in files]
        limit = data.cache_gib * 2**30
        source.data_source = Shards(paths, counts, f"{name}/{part}", limit)
    return Records(f"{name}/{part}", source, image, target, names)


def _features(name: str, info, tfds) -> tuple[str, str, list[str]]:
    """Return the names of the image and its label, and those of the classes."""
    features = info.features
    images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    pair = info.supervised_keys if info.supervised_keys else (*images[:1], *labels[:1])
    if len(pair) != 2 or pair[0] not in images or pair[1] not in labels:
        raise UserError(f"{name!r} holds {sorted(features)}; expected one image and its class")
    return *pair, features[pair[1]].names
