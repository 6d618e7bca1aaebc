# SPDX-License-Identifier: Apache-2.0
"""A run from its config to its last metrics."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import jax

from spectral_flax.layers.modes import evaluation_mode
from spectral_flax.messages import several, shown
from spectral_flax.models.record import ModelRecord
from train.checkpoints.best import BestCheckpoint
from train.checkpoints.checkpoint_record import Record
from train.checkpoints.checkpoints import Checkpoints, newest_config
from train.checkpoints.model_record import model_record, write_record
from train.checkpoints.pretrained import adopted, frozen_parameters, load_pretrained
from train.checkpoints.state import (
    TrainState,
    make_model,
    make_state,
    split,
    state_groups,
    state_of_groups,
)
from train.command.checks import check
from train.config import SHAPING, Config, differences
from train.data import training_batches
from train.data.pipeline import Batches
from train.data.source import Source
from train.errors import InterruptedRunError, NonFiniteLossError, UserError
from train.processes import workdir as workdirs
from train.processes.coordination import agree_on_folder, together
from train.processes.distributed import is_main_process, log
from train.processes.signals import EXIT_CODES, NAMES, StopSignals
from train.report.image_grid import write_image_grid
from train.report.report import Report
from train.run.agreement import agree_on_command, open_agreed_data
from train.run.evaluate import evaluate
from train.run.mesh import (
    check_batches,
    check_rows,
    make_mesh,
    shard_batch,
    state_sharding,
    to_host,
)
from train.run.optimizers import make_optimizer, make_schedule, peak_learning_rate
from train.run.record import Run
from train.run.step import compile_step, make_eval_step, make_train_step
from train.task import Task
from train.tasks import TASKS, identity, make_task


def run(config: Config, command: str = "the same command") -> dict[str, float]:
    """Train as ``config`` says, from the newest checkpoint in its workdir if there is one.

    Returns the metrics on the held-out examples. ``command`` is what a user types to go on.

    Raises:
      UserError: the input does not allow the run; nothing was overwritten.
      NonFiniteLossError: the loss or its gradient is not finite; what was saved before remains.
      SaveFailedError: the disk is full, or the like; what was saved before remains.
      InterruptedRunError: a signal came; the state is saved.
    """
    config = check(config)
    with contextlib.ExitStack() as stack:
        agree_on_command(config)
        with together():
            workdir = stack.enter_context(workdirs.lock(config.workdir))
        agree_on_folder(workdir)
        stop = stack.enter_context(StopSignals())
        checkpoints = Checkpoints(workdir / "checkpoints", keep=config.keep)
        stack.callback(checkpoints.close)

        config = adopted(config, lambda: newest_config(checkpoints))

        # Devices and data
        mesh = make_mesh(config.mesh)
        check_batches(mesh, config)
        source, held_out = open_agreed_data(config)
        batches = training_batches(config, source)
        steps = config.steps or max(1, round(config.epochs * len(source) / config.batch_size))

        # Task, model, optimiser and their first state
        begins = not checkpoints.steps()
        task = make_task(config, source).prepared(workdir, begins=begins)
        best = _best_checkpoint(config, workdir, stack)
        classes = source.class_names if begins else None
        run, state = begun(config, mesh, task, steps, classes)
        count = sum(leaf.size for leaf in state.params.values())
        log(f"{config.model}: {count:,} parameters; {config.data.name}: {len(source)} examples")
        log(
            f"{steps} steps of {config.batch_size} on {mesh.size} {jax.default_backend()} device(s)"
        )

        # Restore
        state, position = _restored(run, state, checkpoints, tuple(source.class_names))
        if position is not None:
            batches.set_state(position)
            log(f"going on from step {int(state.step)} in {workdir}")
        _check_steps(config, int(state.step), steps, workdir)

        # Train and evaluate
        span = dict(start=int(state.step), steps=steps)
        report = Report(workdir, config, source, **span, annotated=task.annotated)
        record = model_record(config, task, held_out)
        loop = _Loop(run, record, batches, held_out, checkpoints, best, report, stop)
        with contextlib.closing(batches), report:
            state = loop.train(state, steps, command)
            metrics = loop.evaluate(state)
            loop.draw_results(state)
        report.end()
        return metrics


def _best_checkpoint(config: Config, workdir: Path, stack) -> BestCheckpoint | None:
    if config.best is None:
        return None
    best = BestCheckpoint(workdir / "best", config.best, TASKS[config.task].metrics)
    stack.callback(best.close)
    return best


def begun(
    config: Config,
    mesh: jax.sharding.Mesh,
    task: Task,
    steps: int,
    class_names: Sequence[str] | None,
) -> tuple[Run, TrainState]:
    """Return a run of so many steps, and its state before the first, on its devices.

    One that goes on has ``class_names=None``, and reads no pretrained weights.
    """
    model = make_model(config, task)
    check_rows(mesh, task, model)
    if class_names is not None:
        load_pretrained(config.pretrained, model, task, class_names)
    frozen = frozen_parameters(model, config.freeze)
    network, params, model_state = split(model)
    learning_rate = make_schedule(config.schedule, peak_learning_rate(config), steps)
    tx = make_optimizer(config.optimizer, learning_rate, task.players, frozen)
    state = make_state(config, params, model_state, tx)
    state = jax.device_put(state, state_sharding(mesh, state, config.mesh.fsdp_min_size))
    return Run(config, mesh, task, network, tx, learning_rate, frozen), state


def _check_steps(config: Config, done: int, steps: int, workdir: Path) -> None:
    if done > steps:
        given = (
            f"--steps is {steps}" if config.steps else f"--epochs {config.epochs} are {steps} steps"
        )
        raise UserError(
            f"{given}; the run in {workdir} has done {done}: give more, or evaluate it "
            f"by spectral-flax evaluate --workdir {workdir}"
        )


class _Loop:
    """The steps of a run, with what they read from and report to."""

    def __init__(
        self,
        run: Run,
        record: ModelRecord,
        batches: Batches,
        held_out: Source,
        checkpoints: Checkpoints,
        best: BestCheckpoint | None,
        report: Report,
        stop: StopSignals,
    ):
        self.run, self.config, self.record = run, run.config, record
        self.batches, self.held_out = batches, held_out
        self.checkpoints, self.best, self.report, self.stop = checkpoints, best, report, stop
        self.eval_step = make_eval_step(run.network, run.task, run.mesh)

    def train(self, state: TrainState, steps: int, command: str) -> TrainState:
        """Take the steps that are left; evaluate and save in between, and save at the end."""
        config, train_step = self.config, make_train_step(self.run, state)
        if int(state.step) < steps:
            self.batches.begin()
            self.program = compile_step(train_step, self.run, state)  # held, for calls to find
        pending = None
        for step in range(int(state.step) + 1, steps + 1):
            batch = shard_batch(self.run.mesh, self.report.take(self.batches))
            state, scalars = train_step(state, batch)
            # Scalars of the step before are read while this one computes.
            self._report(pending)
            pending = step, scalars
            stopped = self.stop.agreed(step, step % config.log_every == 0)
            evaluates = config.eval_every and step % config.eval_every == 0 and step < steps
            saves = step % config.save_every == 0 or step == steps or stopped
            if evaluates or saves:  # not with a loss that nobody has looked at
                pending = self._report(pending)
            if evaluates:
                self.evaluate(state)
            if saves:
                self.checkpoints.save(config, state, self.batches.get_state(), record=self.record)
            if stopped and step < steps:
                self.checkpoints.wait()
                raise InterruptedRunError(
                    f"{NAMES[stopped]} at step {step} of {steps}; saved in {self.report.workdir}. "
                    f"To go on:\n  {command}",
                    EXIT_CODES[stopped],
                )
        self.checkpoints.wait()
        return state

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Return and report the metrics on the held-out examples; keep the state if it is best."""
        metrics = evaluate(
            self.run, self.eval_step, state.eval_params, state.model_state, self.held_out
        )
        self.report.evaluation(int(state.step), metrics)
        if is_main_process():
            weights = "ema" if state.ema_params else "raw"
            write_record(self.report.workdir, self.record, int(state.step), weights, metrics)
        if self.best is not None:
            position = self.batches.get_state()
            self.best.offer(self.config, state, position, metrics, self.record)
        return metrics

    def draw_results(self, state: TrainState) -> None:
        """Draw what the task shows of its results on a few held-out examples, if anything."""
        titles = TASKS[self.config.task].results
        if not titles:
            return
        arrays = to_host(self.run.mesh, (state.eval_params, state.model_state))
        if is_main_process():
            with self.report.drawing("results.png") as path:
                model = evaluation_mode(self.run.network.merge(*arrays))
                count = min(6, len(self.held_out))
                columns = self.run.task.results(model, self.held_out, count)
                write_image_grid(dict(zip(titles, columns, strict=True)), path)

    def _report(self, pending: tuple[int, dict] | None) -> None:
        """Report the scalars of a step that is done.

        Raises:
          NonFiniteLossError: they are not finite, and the config says to stop then.
        """
        if pending is None:
            return
        step, scalars = pending
        scalars = {name: float(value) for name, value in jax.device_get(scalars).items()}
        finite = math.isfinite(scalars["loss"]) and math.isfinite(scalars["gradient_norm"])
        if not finite and self.config.non_finite == "stop":
            raise NonFiniteLossError(
                f"step {step}: loss {scalars['loss']}, gradient norm {scalars['gradient_norm']}; "
                "try a lower --optimizer.learning-rate or, in another --workdir, "
                "--optimizer.clip-norm 1"
            )
        self.report.step(step, {"loss": scalars["loss"]} | scalars)


def _restored(
    run: Run, state: TrainState, checkpoints: Checkpoints, class_names: tuple[str, ...]
) -> tuple[TrainState, dict[str, int] | None]:
    """Return the newest saved state and its position in the data; ``state`` and None without one.

    Raises:
      UserError: the checkpoints are those of another run.
    """
    config, workdir, groups = run.config, checkpoints.directory.parent, state_groups(state)

    def template(record: Record):
        changed = differences(*map(identity, (record.config, config)))
        if changed:
            raise UserError(
                f"{workdir} holds another run; give another --workdir:\n  " + "\n  ".join(changed)
            )
        pair = record.class_names, class_names
        if all(pair) and pair[0] != pair[1]:  # the outputs would mean others
            there, here = (several(names) for names in pair)
            raise UserError(
                f"{workdir} holds a run of other classes; give another --workdir:\n"
                f"  {there} there\n  {here} here"
            )
        faults = checkpoints.mismatches(record, groups)
        if faults:
            changed = differences(*map(identity, (record.config, config)), SHAPING)
            changed = changed or ["no option of model, data and optimiser: their code has changed"]
            raise UserError(
                f"{workdir} holds a run of another model or optimiser; give another --workdir, or "
                "undo what changed:\n  " + "\n  ".join([*changed, shown("; ".join(faults))])
            )
        return groups

    found = checkpoints.newest(template)
    if found is None:
        return state, None
    record, restored = found
    return state_of_groups(state, restored), record.position
