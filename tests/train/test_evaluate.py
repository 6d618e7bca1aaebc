import numpy as np
import pytest
from flax import nnx

from train import loop
from train.config import Mesh
from train.data import Arrays
from train.evaluate import evaluate, evaluate_run, main
from train.mesh import make_mesh
from train.tasks import Classification

TASK = Classification(3, (2, 2, 1), mean=(0.0,), std=(1 / 255,))


class Oracle(nnx.Module):
    """Reads the class from the brightness of the first pixel."""

    def __call__(self, x):
        return 50.0 * nnx.one_hot(x[:, 0, 0, 0].astype(int), 3)


@pytest.mark.parametrize("batch_size", [8, 16, 24])
@pytest.mark.parametrize("devices", [1, 8])
def test_figures_are_those_of_the_examples_whatever_the_batch(batch_size, devices):
    labels = np.array([0] * 6 + [1] * 3 + [2])
    shown = np.array([0] * 5 + [1] + [1, 1, 2] + [2], np.uint8)
    images = np.broadcast_to(shown[:, None, None, None], (10, 2, 2, 1))
    source = Arrays("ten", images, labels, 3, mean=(0.0,), std=(1.0,))
    mesh = make_mesh(Mesh(devices=devices))
    step = lambda params, rest, batch: TASK.metrics(Oracle(), batch)
    figures = evaluate(step, TASK, {}, {}, source, batch_size, mesh)
    assert figures["accuracy"] == pytest.approx(0.8)
    assert figures["mean_class_accuracy"] == pytest.approx((5 / 6 + 2 / 3 + 1) / 3)
    assert figures["loss"] == pytest.approx(2 * 50 / 10, rel=1e-5)


def test_a_saved_run_gives_the_figures_it_ended_with(toy, tmp_path):
    figures = loop.run(toy())
    step, again, config = evaluate_run(tmp_path / "run")
    assert (step, again, config) == (12, figures, toy())


def test_the_command_line_prints_the_figures(toy, toy_path, tmp_path, capsys):
    loop.run(toy())
    capsys.readouterr()
    assert main(["--workdir", str(tmp_path / "run"), "--step", "8"]) == 0
    shown = capsys.readouterr().out
    assert "toy on mnist5k, step 8" in shown and "mean_class_accuracy" in shown
    assert main(["--workdir", str(tmp_path / "run"), "--config", str(toy_path)]) == 0


def test_a_workdir_without_checkpoints_is_refused(tmp_path, capsys):
    assert main(["--workdir", str(tmp_path / "nothing")]) == 2
    assert "holds no checkpoints" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_missing_step_names_those_there_are(toy, tmp_path, capsys):
    loop.run(toy())
    assert main(["--workdir", str(tmp_path / "run"), "--step", "9"]) == 2
    assert "no checkpoint of step 9; there are [8, 12]" in capsys.readouterr().err
