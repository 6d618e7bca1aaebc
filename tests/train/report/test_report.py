import importlib.util
import json
import sys
import types

import numpy as np
import pytest

from train.command.checks import check
from train.errors import UserError
from train.report import plots as pictures
from train.report import throughput as pace
from train.run import loop


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only when told."""
    times = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: times.now)

    def go(seconds):
        times.now += seconds

    return go


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps(watch, clock, numbers, *, wait, work):
    for number in numbers:
        with watch.waiting():
            clock(wait)
        clock(work)
        watch.step(number)


def test_the_pace_is_that_of_the_steps_after_the_first(clock):
    watch = pace.StepTimer(10)
    steps(watch, clock, [11], wait=50.0, work=100.0)  # the start of workers, compilation
    assert watch.window(100, 32) == {"seconds": 150.0}
    steps(watch, clock, range(12, 15), wait=0.1, work=0.3)
    steps(watch, clock, [15], wait=0.1, work=2.3)  # one step that took long
    found = watch.window(100, 32)
    assert found["step_milliseconds"] == pytest.approx(400)  # the median
    assert found["examples_per_second"] == pytest.approx(4 * 32 / 3.6, abs=0.05)
    assert found["data_wait_share"] == pytest.approx(0.4 / 3.6, abs=1e-4)
    assert found["seconds_left"] == pytest.approx(85 * 3.6 / 4)


def test_a_pause_counts_in_no_window(clock):
    watch = pace.StepTimer(0)
    steps(watch, clock, range(1, 4), wait=0.2, work=0.2)
    watch.pause()
    before = watch.window(10, 8)
    clock(1000.0)
    watch.pause()
    steps(watch, clock, range(4, 6), wait=0.2, work=0.2)
    after = watch.window(8, 8)
    for name in ("step_milliseconds", "examples_per_second", "data_wait_share"):
        assert after[name] == pytest.approx(before[name])
    assert before["data_wait_share"] == 0.5


@pytest.mark.parametrize(("wait", "work", "share"), [(0.0, 1.0, 0.0), (1.0, 0.0, 1.0)])
def test_the_share_of_waiting_goes_from_none_to_all(clock, wait, work, share):
    watch = pace.StepTimer(0)
    steps(watch, clock, range(1, 5), wait=wait, work=work)
    assert watch.window(10, 8)["data_wait_share"] == share


def test_a_run_keeps_its_pace_its_samples_and_a_trace(toy, tmp_path, capsys):
    loop.run(toy(log_every=4, profile_steps=2, tensorboard=True))
    workdir = tmp_path / "run"
    trained = [e for e in lines(workdir) if e["split"] == "train"]
    measured = set(pace.MEASURED) - {"device_memory_gib"}
    for entry in trained:
        assert measured <= entry.keys()
        assert 0 <= entry["data_wait_share"] <= 1 and entry["memory_gib"] > 0
    assert trained[-1]["seconds_left"] == 0
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    shown = capsys.readouterr().out
    assert "ms/step" in shown and "waiting for data" in shown and "traced 2 steps" in shown
    assert (workdir / "samples.png").read_bytes().startswith(b"\x89PNG")
    if importlib.util.find_spec("tensorboardX"):
        (events,) = (workdir / "tensorboard").iterdir()
        assert b"train/loss" in events.read_bytes() and b"test/accuracy" in events.read_bytes()


def test_tensorboard_without_its_package_says_what_to_install(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        loop.run(toy(tensorboard=True))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("changes", [{"profile_steps": -1}, {"task_options": {"views_at_once": 0}}])
def test_impossible_values_are_refused(toy, changes):
    name = next(iter(changes.get("task_options", changes)))
    with pytest.raises(UserError, match=name.replace("_", "-")):
        check(toy(**changes))


LAYOUTS = {
    "images": ((5,), (4, 6, 3)),
    "views of images": ((2, 3), (4, 6, 3)),
    "clips": ((2,), (4, 6, 3, 3)),
    "views of clips": ((1, 2), (3, 4, 4, 3)),
    "grey images": ((3,), (5, 5, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_frame_and_view_of_the_first_batch_is_in_the_picture(layout, tmp_path):
    from matplotlib.image import imread

    batch, shape = LAYOUTS[layout]
    frames = np.prod(batch + shape[:-3])
    colours = np.random.default_rng(0).integers(0, 256, (frames, shape[-1])).astype(np.uint8)
    image = np.broadcast_to(colours[:, None, None], (frames, *shape[-3:])).reshape(*batch, *shape)
    source = types.SimpleNamespace(image_shape=shape, num_classes=2, class_names=["a", "b"])
    labels = np.arange(batch[0]) % 2
    pictures.draw_samples(tmp_path / "x.png", {"image": image, "label": labels}, source)
    pixels = np.rint(imread(tmp_path / "x.png")[..., :3] * 255).astype(int)
    there = set(map(tuple, pixels.reshape(-1, 3)))
    assert {tuple(np.broadcast_to(c, 3).tolist()) for c in colours} <= there


@pytest.mark.parametrize("classes", [1, 2, 25, 41, 205])
def test_the_confusion_of_any_number_of_classes_can_be_drawn(classes, tmp_path):
    confusion = np.eye(classes, dtype=int) * 3
    names = [f"a long name of class {i}" for i in range(classes)]
    pictures.draw_confusion(tmp_path / "x.png", confusion, names)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_of_whatever_figures_a_task_has(tmp_path):
    entries = {"train": [{"step": 1, "loss": 2.0}], "test": [{"step": 1, "psnr": 20.0}]}
    pictures.draw_curves(tmp_path / "x.png", entries, ["loss", "psnr"])
    pictures.draw_curves(tmp_path / "x.png", entries, ["loss", "loss"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_memory_is_that_of_the_fullest_device_that_tells(monkeypatch):
    told = [{"peak_bytes_in_use": 2**30}, None, {"peak_bytes_in_use": 3 * 2**30}, {}]
    devices = [types.SimpleNamespace(memory_stats=lambda stats=stats: stats) for stats in told]
    monkeypatch.setattr(pace.jax, "local_devices", lambda: devices)
    assert pace.memory()["device_memory_gib"] == 3.0
    monkeypatch.setattr(pace.jax, "local_devices", lambda: devices[1:2])
    assert "device_memory_gib" not in pace.memory()
