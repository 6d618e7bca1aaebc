# SPDX-License-Identifier: Apache-2.0
"""Records of ArrayRecord files in a bucket, each file copied to this machine when first read.

ArrayRecord's reader opens local files only. Examples are drawn from all files in random order, so
that each host soon has a copy of all: the cache must hold them.
"""

import bisect
import contextlib
import fcntl
import hashlib
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spectral_flax import buckets
from spectral_flax.files import cache_folder
from train.errors import UserError


class Shards:
    """Records of files in a bucket, ``counts`` in each; safe for threads, and sent to workers.

    Raises:
      UserError: a file is not there, or all together are larger than ``limit`` bytes.
    """

    def __init__(
        self, files: Sequence["buckets.Path"], counts: Sequence[int], title: str, limit: float
    ):
        self.files, self.limit = list(files), limit
        self.ends = list(itertools.accumulate(counts))
        folder = self.files[0].parent
        there = buckets.listed(folder, depth=1)
        missing = [file.name for file in self.files if file.name not in there]
        if missing:
            raise UserError(
                f"{title}: {len(missing)} of {len(self.files)} files are not in {folder}, such as "
                f"{missing[0]}: copy the whole data set there (gcloud storage rsync -r FOLDER "
                f"{folder})"
            )
        self.about = [there[file.name] for file in self.files]
        size = sum(about.size for about in self.about)
        if size > limit:
            raise UserError(
                f"{title} takes {size / 2**30:.1f} GiB; --data.cache-gib is {limit / 2**30:g}: "
                f"each host keeps a copy of all, in {cache_folder()}. Give more, where there is "
                "room (SPECTRAL_FLAX_CACHE=FOLDER), or image files with --data.name image_list"
            )
        self._begin()

    def _begin(self) -> None:
        self.readers: dict[int, Any] = {}
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> bytes:
        shard = bisect.bisect_right(self.ends, index)
        start = self.ends[shard - 1] if shard else 0
        return self._reader(shard).read([index - start])[0]

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("files", "limit", "ends", "about")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def _reader(self, shard: int):
        from array_record.python.array_record_module import ArrayRecordReader

        with self.lock:
            if shard not in self.readers:
                path = cached(self.files[shard], self.about[shard], self.limit)
                self.readers[shard] = ArrayRecordReader(
                    str(path), options="readahead_buffer_size:0", file_reader_buffer_size=1 << 15
                )
            return self.readers[shard]


def cached(path: "buckets.Path", about: buckets.Listed, limit: float) -> Path:
    """Return this machine's copy of an object, fetched if there is none of the same content.

    Copies that were not used for the longest time make room where all exceed ``limit`` bytes.
    """
    folder = cache_folder() / "buckets"
    key = hashlib.sha256(f"{path} {about.size} {about.md5}".encode()).hexdigest()[:16]
    target = folder / f"{key}-{path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{target.name}.lock"):
            if not target.exists():
                _make_room(folder, limit - about.size)
                draft = folder / f"{target.name}.part"
                buckets.fetch(path, draft)
                os.replace(draft, target)
            os.utime(target)
    except OSError as error:
        raise UserError(f"cannot copy {path} to {folder}: {error}") from error
    return target


def _make_room(folder: Path, room: float) -> None:
    files = [(file.stat().st_mtime, file) for file in folder.iterdir() if file.suffix != ".lock"]
    total = sum(file.stat().st_size for _, file in files)
    for _, file in sorted(files):
        if total <= room:
            return
        total -= file.stat().st_size
        file.unlink(missing_ok=True)  # whoever has it open goes on reading it


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine fetches the same file."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
