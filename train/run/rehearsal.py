# SPDX-License-Identifier: Apache-2.0
"""A rehearsal of a run: what it will take on its devices, before it is paid for.

It does what a run does at its start, in the run's own code: meets the other processes, opens the
data, compiles the step, takes two steps on the first batch, evaluates a batch, and writes, reads
back and deletes a checkpoint in the work directory.
"""

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from spectral_flax import buckets
from spectral_flax.analysis.collectives import collectives
from spectral_flax.messages import reason
from train.checkpoints.checkpoints import Checkpoints
from train.checkpoints.pretrained import adopted
from train.checkpoints.state import TrainState, state_groups
from train.command.checks import check
from train.config import Config
from train.data import evaluation_batches, training_batches
from train.errors import UserError
from train.processes.coordination import agree_on_folder, exchange, together
from train.processes.distributed import is_main_process, prints, wait_for_all
from train.processes.paths import opened_path
from train.run.agreement import agree_on_command, open_agreed_data
from train.run.loop import begun
from train.run.mesh import check_batches, make_mesh, shard_batch
from train.run.step import make_eval_step, make_train_step
from train.tasks import make_task

Rows = list[tuple[str, str]]


def rehearse(config: Config) -> Rows:
    """Rehearse the run of ``config`` and return what it takes, as names and figures in words.

    Nothing of it remains in the work directory, and no run that is there is touched.

    Raises:
      UserError: the input does not allow the run.
    """
    config = check(config)
    agree_on_command(config)
    with _scratch(config.workdir) as folder, contextlib.ExitStack() as stack:
        agree_on_folder(folder)
        config = adopted(config, lambda: None)
        mesh = make_mesh(config.mesh)
        check_batches(mesh, config)
        source, held_out = open_agreed_data(config)
        batches = stack.enter_context(contextlib.closing(training_batches(config, source)))
        tests = evaluation_batches(held_out, config.eval_batch_size, config.data)
        stack.callback(tests.close)

        steps = config.steps or max(1, round(config.epochs * len(source) / config.batch_size))
        task = make_task(config, source).prepared(folder, begins=True)
        run, state = begun(config, mesh, task, steps, source.class_names)
        count = sum(leaf.size for leaf in state.params.values())
        rows = [
            ("devices", f"{mesh.size} {mesh.devices.flat[0].device_kind}, {_grid(mesh)}"),
            ("processes", str(jax.process_count())),
            ("parameters", f"{count:,}"),
        ]
        batch, seconds = _timed(lambda: shard_batch(mesh, next(batches)))
        rows.append(("first batch read", f"{seconds:.2f} s for {config.batch_size} examples"))
        state, found = _rehearse_step(make_train_step(run, state), state, batch, config)
        rows += found
        evaluated = shard_batch(mesh, next(tests))
        step = make_eval_step(run.network, task, mesh)
        rows += _rehearse_evaluation(step, (state.eval_params, state.model_state, evaluated))
        rows += _rehearse_checkpoint(folder / "checkpoints", config, state, batches.get_state())
        wait_for_all("the rehearsal is over")
    return rows


def show(rows: Rows) -> None:
    """Print what a rehearsal found, as a table."""
    if not prints():
        return
    table = Table(show_header=False, show_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def _rehearse_step(
    train_step: Callable, state: TrainState, batch: dict, config: Config
) -> tuple[TrainState, Rows]:
    """Compile the training step, take it twice and say what it takes; the state is consumed."""
    compiled, seconds = _timed(lambda: train_step.lower(state, batch).compile())
    rows = [("step compiled", f"{seconds:.1f} s")]
    rows += _memory(compiled)
    moved = collectives(compiled.as_text())
    for kind, (count, size) in moved.items():
        rows.append((f"  {kind}", f"{count}, {_bytes(size)} a step"))
    if not moved:
        rows.append(("  collectives", "none"))
    state, _ = jax.block_until_ready(compiled(state, batch))
    (state, scalars), seconds = _timed(lambda: jax.block_until_ready(compiled(state, batch)))
    if not np.isfinite(scalars["loss"]):
        raise UserError(f"the second step has a loss of {scalars['loss']}; lower the learning rate")
    rate = config.batch_size / seconds
    return state, [*rows, ("second step", f"{1000 * seconds:.1f} ms, {rate:,.0f} examples/s")]


def _rehearse_evaluation(eval_step: Callable, arguments: tuple) -> Rows:
    compiled, seconds = _timed(lambda: eval_step.lower(*arguments).compile())
    jax.block_until_ready(compiled(*arguments))
    return [("evaluation compiled", f"{seconds:.1f} s"), *_memory(compiled)]


def _rehearse_checkpoint(folder: Path, config: Config, state: TrainState, position: Any) -> Rows:
    """Write a checkpoint, read it back, compare it and delete it."""
    checkpoints = Checkpoints(folder, keep=1)
    with contextlib.closing(checkpoints):
        began = time.perf_counter()
        checkpoints.save(config, state, position)
        blocked = time.perf_counter() - began
        checkpoints.wait()
        saved = time.perf_counter() - began
        step, groups = int(state.step), state_groups(state)
        sizes = _sizes_of_files(folder / str(step))
        found, restored = _timed(lambda: checkpoints.newest(lambda record: groups))
        same = jax.tree.map(_same, found[1], groups)
        if not jax.tree.all(same):
            raise UserError(f"the checkpoint in {folder} does not read back as it was written")
        checkpoints.delete(step)
    return [
        ("checkpoint", f"{_bytes(sum(sizes))} in {len(sizes)} files"),
        ("  written", f"{saved:.2f} s, of which the step waits {blocked:.2f} s"),
        ("  read back", f"{restored:.2f} s"),
    ]


def _sizes_of_files(folder: Path) -> list[int]:
    if buckets.is_remote(folder):
        return [about.size for about in buckets.listed(folder).values()]
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def _same(a: jax.Array, b: jax.Array) -> bool:
    """Say whether what this process holds of two arrays is the same, bit by bit."""
    pairs = zip(a.addressable_shards, b.addressable_shards, strict=True)
    return all(np.asarray(x.data).tobytes() == np.asarray(y.data).tobytes() for x, y in pairs)


def _memory(compiled: jax.stages.Compiled) -> Rows:
    plan = compiled.memory_analysis()
    kept, between = plan.argument_size_in_bytes, plan.temp_size_in_bytes
    total = kept + between + plan.output_size_in_bytes - plan.alias_size_in_bytes
    told = f"{_bytes(total)} (arguments {_bytes(kept)}, temporary {_bytes(between)})"
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return [("  memory a device", told + (f"; it has {_bytes(limit)}" if limit else ""))]


@contextlib.contextmanager
def _scratch(workdir: str) -> Iterator[Path]:
    """Give a folder in the work directory, shared by all processes, and remove what was made."""
    workdir = opened_path("--workdir", workdir)
    folder = workdir / exchange(f"rehearsal_{secrets.token_hex(4)}")[0]
    places = [] if buckets.is_remote(workdir) else [workdir, *workdir.parents]
    made = [place for place in places if not place.exists()]
    with together():
        if is_main_process():
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise UserError(
                    f"cannot write to the workdir {str(workdir)!r}: {reason(error)}; give another "
                    "--workdir"
                ) from error
    try:
        yield folder
    finally:
        if is_main_process():
            with contextlib.suppress(OSError):  # or somebody else has put something there
                if buckets.is_remote(folder):
                    folder.rmtree()
                else:
                    shutil.rmtree(folder)
                for place in made:
                    place.rmdir()


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def _grid(mesh: jax.sharding.Mesh) -> str:
    return " x ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _bytes(size: int) -> str:
    """Return a number of bytes in the unit that fits it."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"
