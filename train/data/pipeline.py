# SPDX-License-Identifier: Apache-2.0
"""The Grain pipelines: shuffled, augmented batches in training, ordered ones in evaluation.

Training is one infinite, seeded sequence of batches: batch ``k`` holds the same examples, varied
in the same way, whatever the number of processes, worker processes and threads. Its position is
one number, kept in the checkpoint.
"""

import dataclasses
import re
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future

import grain
import jax
import numpy as np
from absl import flags

from train.config import Config, Data
from train.data.source import Example, Padded, Source
from train.errors import UserError

# Memory for batches that are ready before they are needed, where the config does not count them.
PREFETCH_BYTES = 512 * 2**20


def training_batches(config: Config, source: Source) -> "Batches":
    """Return this process's endless batches; ``get_state`` and ``set_state`` hold the position."""
    if config.batch_size > len(source):
        raise UserError(
            f"--batch-size is {config.batch_size}; the data set has {len(source)} examples"
        )
    examples = grain.MapDataset.source(source).seed(config.seed).shuffle().repeat(None)
    if source.augment is not None:
        examples = examples.random_map(source.augment)
    else:
        if config.data.shift:
            examples = examples.random_map(RandomShift(config.data.shift))
        if config.data.flip:
            examples = examples.random_map(random_flip)
    size = config.batch_size // jax.process_count()
    batches = _own(examples).batch(size, drop_remainder=True)
    ahead = config.data.prefetch or _ahead(size, source)
    return Batches(batches, config.data, ahead)


def evaluation_batches(
    source: Source, batch_size: int, data: Data | None = None
) -> Iterator[Example]:
    """Yield every example once, in order; the last batch is filled up with ``valid`` 0.

    ``data`` says how many threads and worker processes read, as in training.
    """
    data = data or Data()
    padded = grain.MapDataset.source(Padded(source, -(-len(source) // batch_size) * batch_size))
    size = batch_size // jax.process_count()
    batches = Batches(_own(padded).batch(size), data, data.prefetch or _ahead(size, source))
    try:
        yield from batches
    finally:
        batches.close()


def _own(examples: grain.MapDataset) -> grain.MapDataset:
    return examples[jax.process_index() :: jax.process_count()]


def _ahead(batch_size: int, source: Source) -> int:
    """Return how many batches fit into `PREFETCH_BYTES`: at least 2, at most 64."""
    size = batch_size * source.views * int(np.prod(source.image_shape))
    return min(max(PREFETCH_BYTES // size, 2), 64)


class Batches:
    """Iterator over batches that threads, or worker processes with threads, prepare.

    A position is the number of batches taken. Grain's own position also holds that of every
    worker; this one can go on with another number of them.
    """

    def __init__(self, batches: grain.MapDataset, data: Data, ahead: int):
        self.batches, self.data, self.ahead = batches, data, ahead
        self.position, self.iterator, self._closing = 0, None, None
        self._first: Future | None = None  # what `begin` reads

    def begin(self) -> None:
        """Start threads or worker processes now, and read the first batch while others work."""
        if self.iterator is None:
            self._start()
            self._first = Future()
            # Not a pool, whose thread the end of the program would wait for.
            read = threading.Thread(target=_fill, args=(self._first, self.iterator), daemon=True)
            read.start()

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Example:
        if self.iterator is None:
            self._start()
        try:
            first, self._first = self._first, None
            batch = next(self.iterator) if first is None else first.result()
        except (RuntimeError, EOFError, ConnectionError) as error:
            code = re.search(r"Worker process .* exit code (-?\d+)", str(error))
            if not self.data.workers or (isinstance(error, RuntimeError) and code is None):
                raise
            how = f"ended with exit code {code[1]}" if code else "is gone"
            raise UserError(
                f"a worker process that reads the data {how}: killed, perhaps for its memory; with "
                "fewer --data.workers or a lower --data.prefetch the same command goes on from the "
                "last checkpoint"
            ) from error
        self.position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Return the position: ``{"next_index": batches taken}``."""
        return {"next_index": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        """Go to a position that `get_state` returned."""
        self.close()
        self.position = int(state["next_index"])

    def close(self) -> None:
        """End threads and worker processes; a later ``next`` starts them again."""
        if self._closing is not None:
            self._closing()
        self.iterator = self._closing = self._first = None

    def _start(self) -> None:
        rest, workers = self.batches[self.position :], self.data.workers
        ahead = max(1, self.ahead // max(workers, 1))
        rest = rest.to_iter_dataset(
            grain.ReadOptions(num_threads=min(self.data.threads, ahead), prefetch_buffer_size=ahead)
        )
        if workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read a flag of absl
                flags.FLAGS.mark_as_parsed()
            rest = rest.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=leave_signals
            )
        self.iterator = iter(rest)
        # Also at the end of the program, while there still is one to end the workers in.
        self._closing = weakref.finalize(self, self.iterator.close)


def _fill(first: Future, iterator: Iterator[Example]) -> None:
    try:
        first.set_result(next(iterator))
    except BaseException as error:  # for whoever asks for the batch
        first.set_exception(error)


def leave_signals(index: int, count: int) -> None:
    """Make a worker process ignore Ctrl-C and SIGTERM, which all processes of a run receive.

    The main process stops after its step, for which it needs the workers, and then ends them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@dataclasses.dataclass(frozen=True)
class RandomShift:
    """Move an image ``[..., H, W, C]`` by up to ``pixels`` along H and W; the border is black."""

    pixels: int

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image, p = example["image"], self.pixels
        height, width = image.shape[-3:-1]
        top, left = rng.integers(0, 2 * p + 1, size=2)
        frame = np.zeros(
            (*image.shape[:-3], height + 2 * p, width + 2 * p, image.shape[-1]), image.dtype
        )
        frame[..., p : p + height, p : p + width, :] = image
        return example | {"image": frame[..., top : top + height, left : left + width, :]}


def random_flip(example: Example, rng: np.random.Generator) -> Example:
    """Mirror the image ``[..., H, W, C]`` left to right, every second time."""
    if rng.random() < 0.5:
        return example
    return example | {"image": np.ascontiguousarray(example["image"][..., ::-1, :])}
