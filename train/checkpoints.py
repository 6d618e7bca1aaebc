# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by Orbax: written beside the running step, verified when they are read.

A checkpoint holds groups of arrays by name (params, rest, optimizer, average) and a JSON record
with the step, the position in the data, the config, figures, and the CRC-32 of every leaf: Orbax
itself restores a flipped byte without a word. Beside them stands a list of their files, written
when all are on disk, by which damage is found before Orbax trips over it.
"""

import contextlib
import gc
import json
import logging
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from train import file_list
from train.config import Config, from_text, to_text
from train.errors import SaveFailedError, UserError
from train.processes import leads, wait_for_all
from train.state import Leaves, TrainState, named_leaves

FORMAT = 2


class Record(NamedTuple):
    """What a checkpoint says about itself."""

    step: int
    config: Config
    position: Any
    digests: dict[str, dict[str, int]]
    figures: dict[str, float]


class DamagedCheckpointError(Exception):
    """A checkpoint does not hold what was saved."""


class Checkpoints:
    """The checkpoints in ``directory``, of which the newest ``keep`` stay; None: only read them.

    Reading does no harm to a run that writes there at the same time.
    """

    def __init__(
        self, directory: Path, *, keep: int | None = None, say: Callable[[str], None] = print
    ):
        self.directory = directory.absolute()
        self.say = say
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            read_only=keep is None,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._list_files),
        )
        self.manager = ocp.CheckpointManager(self.directory, options=options)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, newest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def save(
        self,
        config: Config,
        state: TrainState,
        position: Any,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Start to write a checkpoint; the arrays may be donated as soon as this returns.

        Raises:
          SaveFailedError: this one, or the one before it, cannot be written.
        """
        step, groups = int(state.step), _groups(state)
        if step in self.manager.all_steps():
            return
        digests = {group: _digests(leaves) for group, leaves in groups.items()}
        text = json.dumps(
            {
                "format": FORMAT,
                "step": step,
                "config": to_text(config),
                "position": position,
                "digests": digests,
                "figures": dict(figures or {}),
            }
        )
        items = {name: ocp.args.StandardSave(leaves) for name, leaves in groups.items() if leaves}
        record = ocp.args.JsonSave({"text": text, "crc32": zlib.crc32(text.encode())})
        with self._saving():
            self.manager.save(step, args=ocp.args.Composite(record=record, **items))

    def record(self, step: int) -> Record:
        """Read what the checkpoint of ``step`` says about itself.

        Raises:
          DamagedCheckpointError: a file is not as it was written, or the record is not.
        """
        fault = file_list.fault(self.directory / str(step))
        if fault is not None:
            raise DamagedCheckpointError(fault)
        try:
            args = ocp.args.Composite(record=ocp.args.JsonRestore())
            item = self.manager.restore(step, args=args)["record"]
            text = item["text"]
            if zlib.crc32(text.encode()) != item["crc32"]:
                raise ValueError("the record's checksum differs")
            values = json.loads(text)
        except Exception as error:  # whatever the reader trips over: the files are not as written
            raise DamagedCheckpointError(f"its record: {_first_line(error)}") from error
        if values["format"] != FORMAT:
            raise UserError(
                f"{self.directory / str(step)} has checkpoint format {values['format']}; "
                f"this version reads format {FORMAT}"
            )
        config = from_text(values["config"])
        return Record(
            values["step"], config, values["position"], values["digests"], values["figures"]
        )

    def restore(self, step: int, record: Record, like: dict[str, Leaves]) -> dict[str, Leaves]:
        """Read the groups in ``like``, with its shapes, dtypes and shardings, and verify them."""
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like
        )
        for group, leaves in abstract.items():
            _compare_names(group, leaves, record.digests[group])
        items = {name: ocp.args.StandardRestore(t) for name, t in abstract.items() if t}
        try:
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
            groups = {name: found[name] if name in items else {} for name in like}
        except Exception as error:
            raise DamagedCheckpointError(_first_line(error)) from error
        for group, leaves in groups.items():
            expected = record.digests[group]
            wrong = [n for n, crc in _digests(leaves).items() if crc != expected[n]]
            if wrong:
                raise DamagedCheckpointError(f"the checksum of {group} {wrong[0]} differs")
        return groups

    def newest(self, like: Callable[[Record], dict[str, Leaves]]) -> tuple[Record, dict] | None:
        """Restore the newest sound checkpoint; None if there is none at all.

        ``like`` looks at the record, refuses it with a UserError, or says what to read. Damaged
        checkpoints are moved to ``damaged`` beside the others, and said.
        """
        steps, damaged = self.steps(), []
        for step in steps:
            try:
                record = self.record(step)
                groups = self.restore(step, record, like(record))
            except DamagedCheckpointError as error:
                damaged.append(step)
                self.say(f"the checkpoint of step {step} is damaged: {error}")
            else:
                if damaged:
                    self._set_aside(damaged)
                    self.say(f"going on from the one before it, step {step}")
                return record, groups
            drop_failed_reads()
        if damaged:
            raise UserError(
                f"every checkpoint in {self.directory} is damaged; to start from the beginning, "
                "remove that directory or give another --workdir"
            )
        return None

    def wait(self) -> None:
        """Wait until everything is on disk; raises as `save` does."""
        with self._saving():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and release the threads."""
        self.manager.close()

    def _set_aside(self, steps: list[int]) -> None:
        # Beside the checkpoints and not among them: a saved step of the same number must find
        # its place free, and whoever wants to look into the damage must find it.
        target = self.directory.parent / "damaged"
        wait_for_all("all have read the damaged checkpoints")
        if leads():
            target.mkdir(exist_ok=True)
            for step in steps:
                number = len(list(target.iterdir()))
                shutil.move(self.directory / str(step), target / f"{number}_step_{step}")
        wait_for_all("the damaged checkpoints are set aside")
        self.manager.reload()

    def _list_files(self) -> None:
        if leads():
            for step in self.directory.glob("*tmp*"):  # until Orbax gives it its name
                file_list.write(step)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Say what a failure to write means; Orbax reports those of its threads later."""
        try:
            yield
        except Exception as error:  # of any layer between here and the disk
            free = shutil.disk_usage(self.directory).free / 2**20
            there = sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())
            remains = f"that of step {there[-1]} remains" if there else "there is none before it"
            full = any(sign in str(error) for sign in ("No space left", "quota", "File too large"))
            reason = "the disk is full" if full else _first_line(error)
            raise SaveFailedError(
                f"a checkpoint could not be written to {self.directory}: {reason}\n"
                f"{free:.0f} MiB are free there. {remains[0].upper()}{remains[1:]}; make room, "
                "and the same command goes on from there"
            ) from error


class BestCheckpoint:
    """The one checkpoint in ``directory``: that with the best value of a figure so far."""

    def __init__(self, directory: Path, figure: str):
        self.checkpoints = Checkpoints(directory, keep=1)
        self.figure = figure
        self.sign = -1 if figure.rpartition("_")[2] in ("loss", "l1") else 1

    def offer(self, config: Config, state: TrainState, position: Any, figures: dict) -> None:
        """Keep this state in place of the one before if its figure is better; waits for the disk.

        Raises:
          UserError: there is no such figure.
        """
        if self.figure not in figures:
            raise UserError(f"--best is {self.figure!r}; the figures are {', '.join(figures)}")
        steps = self.checkpoints.steps()
        before = self.checkpoints.record(steps[0]).figures[self.figure] if steps else None
        if before is None or self.sign * (figures[self.figure] - before) > 0:
            self.checkpoints.save(config, state, position, figures)
            self.checkpoints.wait()

    def close(self) -> None:
        """Release the threads."""
        self.checkpoints.close()


def _groups(state: TrainState) -> dict[str, Leaves]:
    return {
        "params": state.params,
        "rest": state.rest,
        "optimizer": named_leaves(_of_optimizer(state)),
        "average": state.average,
    }


def _of_optimizer(state: TrainState) -> dict[str, Any]:
    """Return what a run needs besides the model in order to go on."""
    return {
        "state": state.opt_state,
        "step": state.step,
        "key": state.key,
        "skipped": state.skipped,
    }


def drop_failed_reads() -> None:
    """Collect what a failed restore left behind, without the complaints.

    Orbax leaves coroutines of a closed event loop, whose end prints many tracebacks at any later
    moment; the fault itself has been reported. The exception must be gone when this is called.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    tasks = logging.getLogger("asyncio")
    level, _ = tasks.level, tasks.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
    finally:
        sys.unraisablehook = hook
        tasks.setLevel(level)


def like_state(state: TrainState) -> dict[str, Leaves]:
    """Name the leaves of a whole training state by group, as they are stored."""
    return _groups(state)


def to_state(like: TrainState, groups: dict[str, Leaves]) -> TrainState:
    """Put restored groups back in the shape of ``like``."""
    tree = _of_optimizer(like)
    leaves = [groups["optimizer"][name] for name in named_leaves(tree)]
    tree = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return TrainState(
        step=tree["step"],
        params=groups["params"],
        rest=groups["rest"],
        opt_state=tree["state"],
        key=tree["key"],
        average=groups["average"],
        skipped=tree["skipped"],
    )


def _digests(leaves: Leaves) -> dict[str, int]:
    """Return the CRC-32 of every array, one at a time: an array may be spread over processes."""
    return {name: _digest(array) for name, array in leaves.items()}


def _digest(array: jax.Array) -> int:
    if not (array.is_fully_addressable or array.is_fully_replicated):
        array = multihost_utils.process_allgather(array, tiled=True)
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _compare_names(group: str, wanted: Leaves, stored: dict[str, int]) -> None:
    missing, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    if missing or extra:
        raise UserError(
            f"the checkpoint is of another model or optimiser; {group} lacks {missing[:5]} "
            f"and has {extra[:5]} left over"
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(" See full TensorStore")[0][:200]
