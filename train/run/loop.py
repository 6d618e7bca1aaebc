# SPDX-License-Identifier: Apache-2.0
"""A run from its config to its last figures, in the order of life."""

import contextlib
import math
from pathlib import Path

import jax

from spectral_flax.messages import shown
from train.checkpoints.best import BestCheckpoint
from train.checkpoints.checkpoints import Checkpoints, Record
from train.checkpoints.pretrained import load_start
from train.checkpoints.state import TrainState, like_state, make_model, make_state, split, to_state
from train.command.checks import check
from train.config import SHAPING, Config, differences
from train.data import training_batches
from train.errors import InterruptedRunError, NonFiniteLossError, UserError
from train.processes import workdir as workdirs
from train.processes.distributed import leads, say
from train.processes.signals import EXIT_CODES, NAMES, StopSignals
from train.report.image_grid import write_sheet
from train.report.report import Report
from train.run.evaluate import evaluate
from train.run.mesh import check_batches, make_mesh, place_batch, state_sharding, to_host
from train.run.optimizers import make_optimizer, make_schedule, peak_learning_rate
from train.run.step import evaluated, make_eval_step, make_train_step
from train.tasks import TASKS, identity, make_task, open_data


def run(config: Config, command: str = "the same command") -> dict[str, float]:
    """Train as ``config`` says, from the newest checkpoint in its workdir if there is one.

    Returns the figures on the held-out examples. ``command`` is what a user types to go on.

    Raises:
      UserError: the input does not allow the run; nothing was overwritten.
      NonFiniteLossError: the loss or its gradient is not finite; what was saved before remains.
      SaveFailedError: the disk is full, or the like; what was saved before remains.
      InterruptedRunError: a signal came; the state is saved.
    """
    config = check(config)
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(workdirs.hold(config.workdir))
        stop = stack.enter_context(StopSignals())
        checkpoints = Checkpoints(workdir / "checkpoints", keep=config.keep)
        stack.callback(checkpoints.close)
        return _run(config, command, workdir, stop, checkpoints, stack)


def _run(
    config: Config,
    command: str,
    workdir: Path,
    stop: StopSignals,
    checkpoints: Checkpoints,
    stack: contextlib.ExitStack,
) -> dict[str, float]:
    # Devices
    mesh = make_mesh(config.mesh)
    check_batches(mesh, config)

    # Data
    source, held_out = (open_data(config, split) for split in ("train", "test"))
    batches = training_batches(config, source)
    steps = config.steps or max(1, round(config.epochs * len(source) / config.batch_size))

    # Model and optimiser
    begins = not checkpoints.steps()
    task = make_task(config, source).prepared(workdir, begins=begins)
    metrics = TASKS[config.task].metrics
    best = BestCheckpoint(workdir / "best", config.best, metrics) if config.best else None
    if best is not None:
        stack.callback(best.close)
    model = make_model(config, task)
    if begins:
        load_start(config.start, model, task)
    network, params, rest = split(model)
    learning_rate = make_schedule(config.schedule, peak_learning_rate(config), steps)
    tx = make_optimizer(config.optimizer, learning_rate, task.turns)

    # State
    state = make_state(config, params, rest, tx)
    state = jax.device_put(state, state_sharding(mesh, state, config.mesh.fsdp_min_size))
    count = sum(leaf.size for leaf in params.values())
    say(f"{config.model}: {count:,} parameters; {config.data.name}: {len(source)} examples")
    say(f"{steps} steps of {config.batch_size} on {mesh.size} {jax.default_backend()} device(s)")

    # Restore
    state, position = _restore(checkpoints, config, state)
    if position is not None:
        batches.set_state(position)
        say(f"going on from step {int(state.step)} in {workdir}")
    if int(state.step) > steps:
        given = (
            f"--steps is {steps}" if config.steps else f"--epochs {config.epochs} are {steps} steps"
        )
        raise UserError(
            f"{given}; the run in {workdir} has done {int(state.step)}: give more, or evaluate it "
            f"by python -m train.evaluate --workdir {workdir}"
        )

    # Steps
    train_step = make_train_step(network, task, tx, learning_rate, mesh, state, config)
    eval_step = make_eval_step(network, task, mesh)
    start = int(state.step)
    report = Report(workdir, config, source, start=start, steps=steps)

    def evaluation(step: int, state: TrainState) -> dict[str, float]:
        arrays = state.evaluated, state.rest
        size = config.eval_batch_size
        found = evaluate(eval_step, task, *arrays, held_out, size, mesh, config.data)
        report.evaluation(step, found)
        if best is not None:
            best.offer(config, state, batches.get_state(), found)
        return found

    with contextlib.closing(batches), report:
        pending = None
        for step in range(start + 1, steps + 1):
            batch = place_batch(mesh, report.take(batches))
            state, scalars = train_step(state, batch)
            # Scalars of the step before are read while this one computes.
            _finish(config, report, pending)
            pending = step, scalars
            stopped = stop.agreed(step % config.log_every == 0)
            evaluates = config.eval_every and step % config.eval_every == 0 and step < steps
            saves = step % config.save_every == 0 or step == steps or stopped
            if evaluates or saves:  # not with a loss that nobody has looked at
                pending = _finish(config, report, pending)
            if evaluates:
                evaluation(step, state)
            if saves:
                checkpoints.save(config, state, batches.get_state())
            if stopped and step < steps:
                checkpoints.wait()
                raise InterruptedRunError(
                    f"{NAMES[stopped]} at step {step} of {steps}; saved in {workdir}. "
                    f"To go on:\n  {command}",
                    EXIT_CODES[stopped],
                )

        # Evaluate
        checkpoints.wait()
        result = evaluation(int(state.step), state)
        titles = TASKS[config.task].results
        if titles:
            arrays = to_host(mesh, (state.evaluated, state.rest))
            if leads():
                with report.drawing("results.png") as path:
                    model = evaluated(network.merge(*arrays))
                    columns = task.results(model, held_out, min(6, len(held_out)))
                    write_sheet(dict(zip(titles, columns, strict=True)), path)
    report.end()
    return result


def _restore(checkpoints: Checkpoints, config: Config, state: TrainState):
    place, groups = checkpoints.directory.parent, like_state(state)

    def like(record: Record):
        unlike = differences(*map(identity, (record.config, config)))
        if unlike:
            raise UserError(
                f"{place} holds another run; give another --workdir:\n  " + "\n  ".join(unlike)
            )
        faults = checkpoints.unlike(record, groups)
        if faults:
            changed = differences(*map(identity, (record.config, config)), SHAPING)
            changed = changed or ["no option of model, data and optimiser: their code has changed"]
            raise UserError(
                f"{place} holds a run of another model or optimiser; give another --workdir, or "
                "undo what changed:\n  " + "\n  ".join([*changed, shown("; ".join(faults))])
            )
        return groups

    found = checkpoints.newest(like)
    if found is None:
        return state, None
    record, restored = found
    return to_state(state, restored), record.position


def _finish(config: Config, report: Report, pending: tuple[int, dict] | None) -> None:
    if pending is None:
        return
    step, scalars = pending[0], {name: float(v) for name, v in jax.device_get(pending[1]).items()}
    finite = math.isfinite(scalars["loss"]) and math.isfinite(scalars["gradient_norm"])
    if not finite and config.non_finite == "stop":
        raise NonFiniteLossError(
            f"step {step}: loss {scalars['loss']}, gradient norm {scalars['gradient_norm']}; "
            "try a lower --optimizer.learning-rate or, in another --workdir, "
            "--optimizer.clip-norm 1"
        )
    report.step(step, {"loss": scalars["loss"]} | scalars)
