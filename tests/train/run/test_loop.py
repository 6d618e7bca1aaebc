import json
import os
import re
import shutil
import signal
import subprocess
import sys

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.__main__ import main
from train.checkpoints.state import make_model, make_state, split
from train.config import Config, Data, Mesh, Optimizer, Schedule
from train.data import open_source
from train.errors import InterruptedRunError, NonFiniteLossError, UserError
from train.report.report import Report
from train.run import loop
from train.run.mesh import make_mesh, shard_batch, state_sharding
from train.run.optimizers import kernels, make_optimizer, make_schedule, peak_learning_rate
from train.run.record import Run
from train.run.step import make_train_step
from train.tasks import make_task

ONE = Mesh(devices=1)


def built(config):
    """Return the compiled step, the state before it and the arrays of one batch."""
    mesh = make_mesh(config.mesh)
    source = open_source(config.data.name, "train")
    task = make_task(config, source)
    network, params, rest = split(make_model(config, task))
    rate = make_schedule(config.schedule, peak_learning_rate(config), config.steps)
    tx = make_optimizer(config.optimizer, rate)
    state = make_state(config, params, rest, tx)
    state = jax.device_put(state, state_sharding(mesh, state))
    rng = np.random.default_rng(0)
    batch = {
        name: rng.integers(0, 10, array.shape).astype(array.dtype)
        for name, array in task.batch_shape(config.batch_size).items()
    }
    return (
        make_train_step(Run(config, mesh, task, network, tx, rate), state),
        state,
        shard_batch(mesh, batch),
    )


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_metrics_curves_and_checkpoints(toy, tmp_path, capsys):
    figures = loop.run(toy(eval_every=4))
    workdir = tmp_path / "run"
    entries = lines(workdir)
    assert [e["step"] for e in entries if e["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [e["step"] for e in entries if e["split"] == "test"] == [4, 8, 12]
    assert {"loss", "accuracy", "gradient_norm", "learning_rate"} <= entries[0].keys()
    assert figures.items() <= entries[-1].items()
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["12", "8"]
    shown = capsys.readouterr().out
    assert "peak memory" in shown and f"accuracy {figures['accuracy']:.4f}" in shown


def test_training_lowers_the_loss(toy, tmp_path):
    loop.run(toy(mesh=ONE, steps=60, save_every=60))
    losses = [e["loss"] for e in lines(tmp_path / "run") if e["split"] == "train"]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def test_the_step_compiles_once_and_consumes_its_state(toy):
    step, state, batch = built(toy())
    first = state.params["head.kernel"]
    for _ in range(3):
        state, _scalars = step(state, batch)
    assert step._cache_size() == 1
    assert first.is_deleted()
    assert int(state.step) == 3


@pytest.mark.parametrize("parallel", ["pjit", "pmap"])
def test_a_run_compiles_its_step_once(toy, caplog, parallel):
    with jax.log_compiles():
        loop.run(toy(parallel=parallel, steps=2))
    compiled = [r for r in caplog.messages if "XLA compilation of jit(train_step)" in r]
    assert len(compiled) == 1


def test_a_step_changes_every_parameter_and_statistic(toy):
    step, state, batch = built(toy())
    before = jax.device_get(state)
    after = jax.device_get(step(state, batch)[0])
    for group in ("params", "model_state"):
        old, new = getattr(before, group), getattr(after, group)
        same = {name for name in old if np.array_equal(old[name], new[name])}
        # A bias before batch normalisation has no gradient; a dropout key only ever counts.
        assert same <= {"conv.bias", "dropout.rngs.key"}


def test_eight_devices_and_one_take_the_same_steps(toy):
    results = []
    for mesh in (ONE, Mesh(devices=8)):
        step, state, batch = built(toy(mesh=mesh, options={"dropout": 0.0}))
        for _ in range(3):
            state, scalars = step(state, batch)
        results.append(jax.device_get((state.params, state.model_state, scalars)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# test_step.py has an FFC-ResNet-18.
NETWORKS = {
    "toy": {},
    "ffc_resnext50_32x4d": {"depths": (1, 1)},
}


@pytest.mark.parametrize("model", NETWORKS)
def test_the_step_on_eight_devices_gathers_nothing(toy, model):
    step, state, batch = built(toy(model=model, options=NETWORKS[model], mesh=Mesh(devices=8)))
    text = step.lower(state, batch).compile().as_text()
    assert "all-reduce" in text and not re.search(collectives.MOVES, text)


@pytest.mark.parametrize("name", ["cosine", "step", "constant"])
def test_a_schedule_warms_up_to_its_peak(name):
    rate = make_schedule(Schedule(name=name, warmup=0.1), 2.0, 100)
    np.testing.assert_allclose([rate(0), rate(4)], [0.2, 1.0], rtol=1e-6)
    assert max(float(rate(step)) for step in range(100)) <= 2.0


def test_the_cosine_ends_at_zero_and_steps_drop_where_told():
    cosine = make_schedule(Schedule(name="cosine", warmup=0.0), 2.0, 100)
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [2, 1, 0], atol=1e-6)
    steps = make_schedule(Schedule(name="step", warmup=0.0, drop_at=(0.3, 0.6)), 1.0, 100)
    rates = [float(steps(step)) for step in (29, 30, 59, 60)]
    np.testing.assert_allclose(rates, [1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_the_learning_rate_follows_the_overridden_batch():
    optimizer = Optimizer(learning_rate=0.1, reference_batch=256)
    assert peak_learning_rate(Config(batch_size=1024, optimizer=optimizer)) == 0.4
    optimizer = Optimizer(learning_rate=0.1, reference_batch=None)
    assert peak_learning_rate(Config(batch_size=1024, optimizer=optimizer)) == 0.1


def test_sgd_adds_the_decay_to_the_gradient_before_the_momentum():
    tx = make_optimizer(Optimizer(momentum=0.5, weight_decay=0.1), lambda step: 1.0)
    params, grads = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.full((2, 2), 0.4)}
    updates, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5, rtol=1e-6)
    updates, state = tx.update(grads, state, params)
    np.testing.assert_allclose(updates["kernel"], -0.75, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_biases_and_norms_can_be_kept_from_decay(name):
    params = {"a.kernel": jnp.ones((2, 2)), "a.bias": jnp.ones(2), "norm.scale": jnp.ones(2)}
    assert kernels(params) == {"a.kernel": True, "a.bias": False, "norm.scale": False}
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = make_optimizer(Optimizer(name=name, weight_decay=0.1, decay="kernels"), lambda step: 1.0)
    updates, _ = tx.update(zero, tx.init(params), params)
    moved = {name for name, update in updates.items() if np.any(update)}
    assert moved == {"a.kernel"}


def test_a_non_finite_loss_stops_and_names_its_step(toy, tmp_path):
    diverging = toy(optimizer=Optimizer(learning_rate=1e30, reference_batch=None))
    with pytest.raises(NonFiniteLossError, match=r"^step [1-4]: loss .*learning-rate"):
        loop.run(diverging)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "toi"}, "no model 'toi'"),
        ({"options": {"widht": 3}}, "no option 'widht'; closest: width"),
        (
            {"batch_size": 12, "mesh": Mesh()},
            "batch-size is 12; expected a multiple of the 8 devices.*8 or 16",
        ),
        ({"eval_batch_size": 9, "mesh": Mesh()}, "eval-batch-size is 9"),
        ({"mesh": Mesh(devices=99)}, "devices is 99; there are 8"),
        ({"mesh": Mesh(devices=8, fsdp=3)}, "fsdp is 3; expected a divisor of the 8 devices"),
        ({"mesh": Mesh(devices=8, space=3)}, "space is 3; expected a divisor of the 8 devices"),
        ({"mesh": Mesh(devices=8, fsdp=4, space=4)}, "fsdp is 4; .*with --mesh.space 4"),
        ({"mesh": Mesh(space=2), "parallel": "pmap"}, "pjit: images are shared"),
        (
            {"task": "inpainting", "model": "lama", "data": Data(name="textures", size=(8, 32))},
            "size is 8 32; expected sides of 11 at least",
        ),
        (
            {
                "model": "resnet18",
                "options": {"width": 4, "depths": (1, 1, 1), "stem": "small"},
                "mesh": Mesh(devices=8, space=8),
            },
            "space is 8; of images of 28 x 28 the maps 'stage3' have 7 rows",
        ),
        (
            {"batch_size": 6, "mesh": Mesh(devices=8, space=2)},
            "6; expected a multiple of the 4 groups of 2 devices, such as 4 or 8",
        ),
        ({"accumulate": 5}, "batch-size is 32; .*times the 5 parts of --accumulate"),
        (
            {"task_options": {"mixup": 0.2}, "batch_size": 31},
            "31; .*pairs to mix, such as 30 or 32",
        ),
        ({"options": {"num_classes": 3}}, "num_classes is 3; the data set 'mnist5k' needs 10"),
    ],
)
def test_input_that_cannot_run_is_refused(toy, changes, message):
    with pytest.raises(UserError, match=message):
        loop.run(toy(**changes))


def test_a_workdir_that_cannot_be_written_is_refused(toy, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"cannot write to the workdir.*file"):
        loop.run(toy(workdir=str(tmp_path / "file" / "run")))
    with pytest.raises(UserError, match=r"cannot write to the workdir.*file"):
        loop.run(toy(workdir=str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_workdir_in_use_is_refused(toy):
    from train.processes.workdir import lock

    config = toy()
    with lock(config.workdir), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        loop.run(config)


def test_a_finished_run_is_only_evaluated_again(toy, tmp_path):
    figures = loop.run(toy())
    before = lines(tmp_path / "run")
    assert loop.run(toy()) == figures
    assert lines(tmp_path / "run") == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_saves_and_says_how_to_go_on(toy, monkeypatch, tmp_path, number, code):
    step = Report.step

    def interrupting(report, done, scalars):
        if done == 5:
            signal.raise_signal(number)
        step(report, done, scalars)

    monkeypatch.setattr(Report, "step", interrupting)
    handler = signal.getsignal(number)
    with pytest.raises(InterruptedRunError, match=r"of 12; saved.*\n  python -m train x") as error:
        loop.run(toy(save_every=100), "python -m train x")
    assert error.value.exit_code == code
    assert signal.getsignal(number) is handler
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert saved.name in ("6", "7")


def test_a_second_signal_acts_at_once(toy, monkeypatch):
    def interrupted(report, step, scalars):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Report, "step", interrupted)
    # A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run(toy(save_every=1))
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_line_trains_and_refuses(toy, toy_path, tmp_path, capsys):
    command = [sys.executable, "-m", "train", str(toy_path), "--steps", "2"]
    command += ["--workdir", str(tmp_path / "run"), "--mesh.devices", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout and "test at step 2" in done.stdout
    assert main([*command[3:], "--model", "toi"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    shutil.rmtree(tmp_path / "run")


def test_steps_that_are_not_finite_can_be_skipped(toy, tmp_path):
    rate = Optimizer(learning_rate=1e30, reference_batch=None)
    loop.run(toy(optimizer=rate, non_finite="skip"))
    entries = [e for e in lines(tmp_path / "run") if e["split"] == "train"]
    assert entries[-1]["skipped"] > 0
