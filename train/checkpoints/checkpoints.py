# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by Orbax: written beside the running step, verified when they are read.

A checkpoint holds groups of arrays by name (see
`state_groups`) and a JSON record
with the step, the position in the data, the config, figures, and the names of all leaves. Beside
them stands a list of their files with the CRC-32 of each, written when all are on disk: Orbax
itself restores a flipped byte without a word. Checkpoints of format 2 have that of every array too.
"""

import contextlib
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from spectral_flax import buckets
from spectral_flax.checkpoints import manifest
from spectral_flax.checkpoints.records import record_to_json
from spectral_flax.checkpoints.runs import RECORD, is_finished
from spectral_flax.files import is_gone
from spectral_flax.messages import reason, shown
from spectral_flax.models.record import ModelRecord
from train.checkpoints.checkpoint_record import FORMAT, Record, to_record
from train.checkpoints.failed_reads import drop_failed_reads
from train.checkpoints.state import Leaves, TrainState, state_groups
from train.config import Config, to_text
from train.errors import SaveFailedError, UserError
from train.processes.distributed import is_main_process, log, wait_for_all
from train.processes.paths import move_to_free

_UNFINISHED = re.compile(r"[0-9]+\.orbax-checkpoint-tmp")  # what Orbax calls a step it writes


class DamagedCheckpointError(Exception):
    """A checkpoint does not hold what was saved."""


class Checkpoints:
    """The checkpoints in ``directory``, of which the newest ``keep`` stay; None: only read them.

    Reading does no harm to a run that writes there at the same time.
    """

    def __init__(
        self, directory: Path, *, keep: int | None = None, log: Callable[[str], None] = log
    ):
        self.directory = directory if buckets.is_remote(directory) else directory.absolute()
        self.log = log
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
        *,
        record: ModelRecord | None = None,
        force: bool = False,
    ) -> None:
        """Start to write a checkpoint; the arrays may be donated as soon as this returns.

        It must be newer than those there are, unless ``force`` says otherwise. ``record`` is what
        travels with the model, for whoever loads it without this program.

        Raises:
          SaveFailedError: this one, or the one before it, cannot be written.
        """
        step, groups = int(state.step), state_groups(state)
        text = json.dumps(
            {
                "format": FORMAT,
                "step": step,
                "config": to_text(config),
                "position": position,
                "names": {group: list(leaves) for group, leaves in groups.items()},
                "figures": dict(figures or {}),
                RECORD: None if record is None else json.loads(record_to_json(record)),
            }
        )
        items = {name: ocp.args.StandardSave(leaves) for name, leaves in groups.items() if leaves}
        record = ocp.args.JsonSave({"text": text, "crc32": zlib.crc32(text.encode())})
        with self._saving():
            if is_gone(self.directory):
                raise FileNotFoundError(f"{self.directory} is gone")
            there = self.directory / str(step)
            if there.exists() and is_finished(there):  # else what a kill left, which Orbax removes
                raise FileExistsError(f"there is one of step {step} already")
            args = ocp.args.Composite(record=record, **items)
            if not self.manager.save(step, args=args, force=force):
                others = ", ".join(map(str, self.steps()))
                raise ValueError(f"step {step} is not newer than those there are: {others}")

    def record(self, step: int) -> Record:
        """Read what the checkpoint of ``step`` says about itself.

        Raises:
          DamagedCheckpointError: a file is not as it was written, or the record is not.
          UserError: another version of this program wrote it.
        """
        folder = self.directory / str(step)
        fault = manifest.fault(folder)
        if fault is not None:
            raise DamagedCheckpointError(fault)
        try:
            args = ocp.args.Composite(record=ocp.args.JsonRestore())
            item = self.manager.restore(step, args=args)["record"]
            text = item["text"]
            if zlib.crc32(text.encode()) != item["crc32"]:
                raise ValueError("the record's checksum differs")
            values = json.loads(text)
            format = values["format"]
        except Exception as error:  # whatever the reader trips over
            raise _damage(folder, f"its record: {_first_line(error)}") from error
        if format not in (2, FORMAT):
            raise UserError(
                f"{folder} has checkpoint format {shown(repr(format))}; this version reads "
                f"formats 2 and {FORMAT}"
            )
        if format == FORMAT and not (folder / manifest.NAME).exists():
            raise DamagedCheckpointError(f"its list of files, {manifest.NAME}, is missing")
        found = to_record(folder, values)
        if found.step != step:
            raise DamagedCheckpointError(f"it is a copy of step {found.step} under another number")
        return found

    def mismatches(self, record: Record, template: dict[str, Leaves]) -> list[str]:
        """Say in which names, shapes and types of arrays a checkpoint differs from ``template``."""
        faults = []
        for group, leaves in template.items():
            there = record.names.get(group, {})
            faults += [f"{group} lacks {name}" for name in sorted(leaves.keys() - there.keys())]
            faults += [
                f"{group} has {name} left over" for name in sorted(there.keys() - leaves.keys())
            ]
            stored = _arrays_in(self.directory / str(record.step) / group) if there else {}
            for name in sorted(there.keys() & leaves.keys()):
                if there[name] not in stored:
                    raise DamagedCheckpointError(f"{group} {name} is in its record only")
                both = stored[there[name]], leaves[name]
                pair = [f"{np.dtype(a.dtype)}{list(a.shape)}" for a in both]
                if pair[0] != pair[1]:
                    faults.append(f"{group} {name} is {pair[0]}, expected {pair[1]}")
        return faults

    def restore(self, step: int, record: Record, template: dict[str, Leaves]) -> dict[str, Leaves]:
        """Read the groups in ``template``, with its shapes, dtypes and shardings, and verify them.

        Raises:
          UserError: they are arrays of another model or optimiser.
          DamagedCheckpointError: they are not as they were saved.
        """
        faults = self.mismatches(record, template)
        if faults:
            raise UserError(
                f"{self.directory / str(step)} is of another model: {shown('; '.join(faults))}"
            )
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), template
        )
        stored = {g: {record.names[g][n]: a for n, a in t.items()} for g, t in abstract.items()}
        items = {name: ocp.args.StandardRestore(t) for name, t in stored.items() if t}
        try:
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
            groups = {g: {n: found[g][record.names[g][n]] for n in t} for g, t in template.items()}
        except Exception as error:
            raise _damage(self.directory / str(step), _first_line(error)) from error
        for group, leaves in groups.items() if record.digests else ():
            for name, array in leaves.items():
                if _digest(array) != record.digests[group][record.names[group][name]]:
                    raise DamagedCheckpointError(f"the checksum of {group} {name} differs")
        return groups

    def newest(self, template: Callable[[Record], dict[str, Leaves]]) -> tuple[Record, dict] | None:
        """Restore the newest sound checkpoint; None if there is none at all.

        ``template`` looks at the record, refuses it with a UserError, or says what to read. Damaged
        checkpoints are moved to ``damaged`` beside the others, and said.
        """
        steps, damaged = self.steps(), []
        for step in steps:
            try:
                record = self.record(step)
                groups = self.restore(step, record, template(record))
            except DamagedCheckpointError as error:
                damaged.append(step)
                self.log(f"the checkpoint of step {step} is damaged: {error}")
            else:
                if damaged:
                    self.set_aside(damaged)
                    self.log(f"going on from the one before it, step {step}")
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

    def delete(self, step: int) -> None:
        """Remove the checkpoint of ``step``."""
        with self._saving():
            self.manager.delete(step)

    def close(self) -> None:
        """Finish writing and release the threads."""
        try:
            with self._saving():
                self.manager.close()
        except SaveFailedError as error:  # what ended the run comes first
            self.log(str(error))

    def set_aside(self, steps: list[int]) -> None:
        """Move damaged checkpoints to ``damaged``, beside this folder.

        Not within it: a saved step of the same number must find its place free, and whoever wants
        to look into the damage must find it.
        """
        target = self.directory.parent / "damaged"
        kind = "step" if self.directory.name == "checkpoints" else self.directory.name
        wait_for_all("all have read the damaged checkpoints")
        try:
            if is_main_process():
                target.mkdir(exist_ok=True)
                for step in steps:
                    name = f"{kind}_{step}"
                    move_to_free(
                        self.directory / str(step), lambda n, name=name: target / f"{n}_{name}", 0
                    )
        except OSError as error:
            raise UserError(
                f"cannot move the damaged checkpoints {steps} to {target}: {reason(error)}"
            ) from error
        wait_for_all("the damaged checkpoints are set aside")
        self.manager.reload()

    def _list_files(self) -> None:
        if is_main_process():
            for step in self.directory.iterdir():
                unmarked = step.name.isdecimal() and not is_finished(step)
                if unmarked or _UNFINISHED.match(step.name):
                    manifest.write(step)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turn a failure to write, which Orbax may report later, into a SaveFailedError."""
        try:
            yield
        except Exception as error:  # of any layer between here and the disk
            raise SaveFailedError(self._failure(error)) from error

    def _failure(self, error: Exception) -> str:
        if buckets.is_remote(self.directory):
            return (
                f"a checkpoint could not be written to {self.directory}: {_first_line(error)}\n"
                "Those before it remain; the same command goes on from there"
            )
        try:
            free = shutil.disk_usage(self.directory).free / 2**20
            there = sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdecimal())
        except OSError:
            return (
                f"the work directory {self.directory.parent} has been removed, or cannot be read, "
                f"while the run was in it: {_first_line(error)}"
            )
        remains = f"That of step {there[-1]} remains" if there else "There is none before it"
        full = any(sign in str(error) for sign in ("No space left", "quota", "File too large"))
        why = "the disk is full" if full else _first_line(error)
        return (
            f"a checkpoint could not be written to {self.directory}: {why}\n{free:.0f} MiB are "
            f"free there. {remains}; make room, and the same command goes on from there"
        )


def newest_config(checkpoints: Checkpoints, steps: Sequence[int] | None = None) -> Config | None:
    """Return the config in the first readable checkpoint of ``steps``; None if there is none.

    ``steps=None`` are all, newest first.
    """
    for step in checkpoints.steps() if steps is None else steps:
        with contextlib.suppress(DamagedCheckpointError):  # said when it is restored
            return checkpoints.record(step).config
        drop_failed_reads()
    return None


def _arrays_in(item: Path) -> Mapping[str, Any]:
    """Return shapes and dtypes of a group of arrays on disk."""
    try:
        return ocp.StandardCheckpointHandler().metadata(item).tree
    except Exception as error:  # whatever the reader trips over
        raise _damage(item.parent, f"its shapes: {_first_line(error)}") from error


def _damage(folder: Path, why: str) -> DamagedCheckpointError | UserError:
    """Return the error of a checkpoint that cannot be read: its files are not as written.

    In a bucket they may be, and only not have come: then it must not be set aside.
    """
    if buckets.is_remote(folder) and manifest.fault(folder) is None:
        return UserError(f"{folder} cannot be read now, though it is whole: {why}; try again")
    return DamagedCheckpointError(why)


def _digest(array: jax.Array) -> int:
    if not (array.is_fully_addressable or array.is_fully_replicated):
        array = multihost_utils.process_allgather(array, tiled=True)
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _first_line(error: Exception) -> str:
    return reason(error).split(" See full TensorStore")[0]
