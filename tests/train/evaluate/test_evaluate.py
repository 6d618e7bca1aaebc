import csv
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.models.registry import MODELS
from train import data
from train.command.checks import check
from train.command.line import load
from train.config import Config, Mesh
from train.data import Arrays
from train.errors import UserError
from train.evaluate.__main__ import main
from train.evaluate.results import write_classes
from train.evaluate.runs_and_weights import evaluate_run
from train.run import loop
from train.run.evaluate import evaluate
from train.run.mesh import make_mesh
from train.run.record import Run
from train.tasks.classification.task import Classification

TOY_CONFIG = Path(__file__).parents[1] / "toy_config.py"
TASK = Classification(3, (2, 2, 1), mean=(0.0,), std=(1 / 255,), confusion=True)
LABELS = np.array([0] * 6 + [1] * 3 + [2])
SHOWN = np.array([0] * 5 + [1] + [1, 1, 2] + [2], np.uint8)


class Oracle(nnx.Module):
    """Reads the class from the brightness of the first pixel."""

    def __call__(self, x):
        return 50.0 * nnx.one_hot(x[:, 0, 0, 0].astype(int), 3)


STEP = jax.jit(lambda params, rest, batch: TASK.metric_sums(Oracle(), batch))


class Linear(nnx.Module):
    """Any function of the pixels, as a network is one, with logits of every size."""

    def __init__(self, classes, size):
        self.layer = nnx.Linear(size, classes, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return 3 * jnp.sin(self.layer(x.reshape(len(x), -1)))


def batch_of(shape, classes, count=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, *shape)).astype(np.uint8),
        "label": rng.integers(0, classes, count).astype(np.int32),
        "valid": np.ones(count, np.float32),
    }


def run_of(batch_size, mesh):
    return Run(Config(eval_batch_size=batch_size), mesh, TASK, None, None, None)


def source_of(shown, labels, classes=3):
    images = np.broadcast_to(shown[:, None, None, None], (len(shown), 2, 2, 1))
    return Arrays("few", images, labels, classes, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize("batch_size", [8, 16, 24])
@pytest.mark.parametrize("devices", [1, 8])
def test_figures_are_those_of_the_examples_whatever_the_batch(batch_size, devices):
    mesh = make_mesh(Mesh(devices=devices))
    figures = evaluate(run_of(batch_size, mesh), STEP, {}, {}, source_of(SHOWN, LABELS))
    assert figures["accuracy"] == pytest.approx(0.8)
    assert figures["mean_class_accuracy"] == pytest.approx((5 / 6 + 2 / 3 + 1) / 3)
    assert figures["loss"] == pytest.approx(2 * 50 / 10, rel=1e-5)


def test_what_the_source_calls_invalid_does_not_count():
    class Broken(Arrays):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            bad = index in (0, 5)  # one that would be right, and one that would be wrong
            return example | ({"valid": 0.0, "label": np.int32(-1)} if bad else {"valid": 1.0})

    whole = source_of(SHOWN, LABELS)
    source = Broken(*(getattr(whole, name) for name in vars(whole)))
    mesh = make_mesh(Mesh(devices=1))
    figures = evaluate(run_of(8, mesh), STEP, {}, {}, source)
    assert figures["accuracy"] == pytest.approx(7 / 8)
    assert figures["mean_class_accuracy"] == pytest.approx((1 + 2 / 3 + 1) / 3)


@pytest.mark.parametrize(
    "shape", [(4, 5, 1), (3, 4, 4, 2)], ids=["views of images", "views of clips"]
)
@pytest.mark.parametrize("at_once", [None, 1, 2, 6])
def test_logits_are_the_mean_over_the_views(shape, at_once):
    task = Classification(7, shape, mean=(0.4,), std=(0.3,))
    model, views = Linear(7, int(np.prod(shape))), 6
    batch = batch_of((views, *shape), 7)
    logits = jax.jit(lambda batch: task.logits(model, batch, views_at_once=at_once))
    found = logits(batch)
    each = [logits(batch | {"image": batch["image"][:, v]}) for v in range(views)]
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-5, atol=1e-6)


def test_the_loss_sees_the_mean_of_the_views_and_their_gradient():
    task = Classification(5, (2, 2, 1), mean=(0.4,), std=(0.3,))
    graphdef, params = nnx.split(Linear(5, 4))
    batch = batch_of((3, 2, 2, 1), 5)

    def by_hand(params):
        parts = [batch | {"image": batch["image"][:, v]} for v in range(3)]
        logits = sum(task.logits(nnx.merge(graphdef, params), part) for part in parts) / 3
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), batch["label"]])

    loss = lambda params: task.loss(nnx.merge(graphdef, params), batch, jax.random.key(0))[0]
    expected, found = (jax.jit(jax.value_and_grad(f))(params) for f in (by_hand, loss))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_parts_that_do_not_divide_the_views_are_refused():
    task = Classification(7, (4, 5, 1), mean=(0.4,), std=(0.3,))
    with pytest.raises(UserError, match="views-at-once is 4; expected a divisor of the 6 views"):
        task.logits(Linear(7, 20), batch_of((6, 4, 5, 1), 7), views_at_once=4)


@pytest.mark.parametrize("classes", [2, 5, 9])
def test_top_5_is_whether_sorting_puts_the_label_among_the_first_five(classes):
    class Given(nnx.Module):
        def __call__(self, x):
            return x.reshape(len(x), -1)

    task = Classification(classes, (1, classes, 1), mean=(0.0,), std=(1 / 255,))
    batch = batch_of((1, classes, 1), classes, count=200)
    batch["image"] //= 64  # four values only: ties
    sums = jax.jit(lambda batch: task.metric_sums(Given(), batch))(batch)
    order = np.argsort(-batch["image"].reshape(200, classes).astype(int), kind="stable")
    right = (order == batch["label"][:, None]).argmax(1)
    found = task.metrics({name: np.asarray(value) for name, value in sums.items()})
    assert found["accuracy"] == pytest.approx(np.mean(right == 0))
    assert found["top5_accuracy"] == pytest.approx(np.mean(right < 5))


def test_rows_of_the_confusion_matrix_count_the_classes_and_its_diagonal_the_right_ones():
    task = Classification(4, (4, 5, 1), mean=(0.4,), std=(0.3,), confusion=True)
    batch = batch_of((4, 5, 1), 4, count=50)
    batch["valid"][::7] = 0
    model = Linear(4, 20)
    both = jax.jit(lambda batch: (task.metric_sums(model, batch), task.logits(model, batch)))
    sums, logits = both(batch)
    sums = jax.device_get(sums)
    confusion = task.confusion_matrix(sums)
    np.testing.assert_array_equal(confusion.sum(1), sums["count"])
    np.testing.assert_array_equal(np.diag(confusion), sums["correct"])
    assert sums["count"].sum() == sums["valid"] == batch["valid"].sum()
    pairs = zip(batch["label"], np.asarray(logits).argmax(-1), batch["valid"], strict=True)
    by_hand = np.zeros((4, 4))
    for i, j, valid in pairs:
        by_hand[i, j] += valid
    np.testing.assert_array_equal(confusion, by_hand)


def test_accuracies_of_the_classes_average_to_the_mean_class_accuracy(tmp_path):
    confusion = np.array([[5, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    write_classes(tmp_path / "classes.csv", confusion, ["cat", "dog", "red, fox", "none"])
    with (tmp_path / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    task = Classification(4, (2, 2, 1), mean=(0.0,), std=(1.0,))
    sums = {"count": confusion.sum(1), "correct": np.diag(confusion), "valid": confusion.sum()}
    figures = task.metrics(sums | {"loss": np.array(0.0), "correct_of_5": confusion.sum(1)})
    found = [float(row["accuracy"]) for row in rows if row["accuracy"]]
    assert np.mean(found) == pytest.approx(figures["mean_class_accuracy"], abs=1e-4)
    assert [row["class"] for row in rows] == ["cat", "dog", "red, fox", "none"]
    assert (rows[1]["taken_for"], rows[1]["times"]) == ("red, fox", "1")


def test_labels_that_the_model_has_no_class_for_are_refused():
    mesh = make_mesh(Mesh(devices=1))
    with pytest.raises(UserError, match="2 of the examples have labels outside 0 to 2"):
        evaluate(
            run_of(8, mesh), STEP, {}, {}, source_of(SHOWN[::2], np.minimum(LABELS * 4, 4)[::2])
        )


# The command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the toy that nobody changes: its directory, its figures, its config."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "toy", None)
        config = load(TOY_CONFIG)
        config = dataclasses.replace(config, workdir=str(workdir), mesh=Mesh(devices=1))
        return workdir, loop.run(config), config


@pytest.fixture
def words(toy, run):
    """Return the words that evaluate that run."""
    return ["--workdir", str(run[0])]


def test_a_saved_run_gives_the_figures_it_ended_with(toy, run):
    workdir, figures, config = run
    found = evaluate_run(workdir)
    assert (found.origin["step"], found.metrics, found.config) == (12, figures, check(config))


def test_the_command_line_prints_and_writes_the_figures(words, toy_path, tmp_path, capsys):
    capsys.readouterr()
    folder = tmp_path / "out"
    assert main([*words, "--step", "8", "--output", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "toy on mnist5k, step 8" in shown and "mean_class_accuracy" in shown
    written = json.loads((folder / "figures.json").read_text())
    assert written["step"] == 8 and written["evaluated"] == 1000
    for name, value in written["figures"].items():
        assert f"{name:20} {value:.4f}" in shown
    with np.load(folder / "confusion.npz") as file:
        assert np.trace(file["confusion"]) / 1000 == pytest.approx(written["figures"]["accuracy"])
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "classes.csv").read_text().splitlines()) == 11
    assert main([*words, "--config", str(toy_path)]) == 0


def test_options_of_the_data_override_those_of_the_run(words, monkeypatch):
    seen = []

    def opened(split, _data):
        seen.append(split)
        return data.mnist5k("train")

    monkeypatch.setitem(data.SOURCES, "other", opened)
    assert main([*words, "--data.name", "other", "--data.threads", "1"]) == 0
    assert seen == ["test"]


def test_averaged_parameters_and_the_best_checkpoint_can_be_evaluated(toy, tmp_path):
    figures = loop.run(toy(ema_decay=0.5, best="accuracy", eval_every=4))
    with (tmp_path / "run" / "metrics.jsonl").open() as file:
        tested = [e for e in map(json.loads, file) if e["split"] == "test"]
    assert evaluate_run(tmp_path / "run").metrics == figures
    raw = evaluate_run(tmp_path / "run", ema=False).metrics
    assert raw["loss"] != pytest.approx(figures["loss"])
    best = evaluate_run(tmp_path / "run", best=True)
    assert best.metrics["accuracy"] == max(e["accuracy"] for e in tested)


@pytest.mark.parametrize("form", ["x.safetensors", "x.pth", "x.orbax", "folder"])
def test_weights_in_any_format_give_the_same_figures(form, tmp_path, monkeypatch, capsys):
    options = dict(width=8, depths=(1,), num_classes=3, in_features=1, stem="small")
    model = sf.create_model("resnet18", **options)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    source = Arrays("few", images, np.arange(12) % 3, 3, mean=(0.2,), std=(0.5,))
    monkeypatch.setitem(data.SOURCES, "few", lambda split, _data: source)
    sf.save(model, tmp_path / form, name="resnet18", options=options)
    words = ["--weights", str(tmp_path / form), "--data.name", "few", "--devices", "1"]
    if form == "x.pth":  # the only one that does not know its model
        words += ["--model", "resnet18", "--options.width", "8", "--options.depths", "(1,)"]
        words += ["--options.stem", "small"]
    assert main([*words, "--eval-batch-size", "12", "--output", str(tmp_path / "out")]) == 0
    model.eval()
    logits = model((images / np.float32(255) - np.float32(0.2)) / np.float32(0.5))
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())["figures"]
    assert figures["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == np.arange(12) % 3))
    loss = -jax.nn.log_softmax(logits)[np.arange(12), np.arange(12) % 3].mean()
    assert figures["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.fixture
def refused(capsys, monkeypatch):
    """Return a function that runs the command line, sees it refuse, and returns what it says."""

    def evaluated(*words):
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("train.evaluate.runs_and_weights.make_eval_step", None)
            assert main(list(words)) == 2
        return capsys.readouterr().err

    return evaluated


def test_what_a_run_cannot_be_evaluated_with_is_refused(words, refused, monkeypatch):
    few = source_of(SHOWN, LABELS)
    monkeypatch.setitem(data.SOURCES, "few", lambda split, _data: few)
    assert "no checkpoint of step 9; there are [8, 12]" in refused(*words, "--step", "9")
    assert "holds no best checkpoint" in refused(*words, "--best")
    assert "no data set 'mnist'; closest: mnist5k" in refused(*words, "--data.name", "mnist")
    assert "(num_classes 3, in_features 1)" in refused(*words, "--data.name", "few")
    assert "--model belongs to the evaluation of weights" in refused(*words, "--model", "toy")
    assert "not both" in refused(*words, "--weights", "x.pth")
    assert "there are 8 devices" in refused(*words, "--devices", "9")
    assert "--task-options.views-at-once is 0" in refused(
        *words, "--task-options.views-at-once", "0"
    )
    assert f"give --workdir {words[1]}" in refused("--weights", words[1])


def test_a_workdir_without_checkpoints_is_refused(tmp_path, refused):
    assert "holds no checkpoints" in refused("--workdir", str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_weights_for_other_classes_than_the_data_are_refused(tmp_path, refused):
    options = dict(width=8, depths=(1,), num_classes=3, in_features=1, stem="small")
    file = str(tmp_path / "x.safetensors")
    sf.save(sf.create_model("resnet18", **options), file, name="resnet18", options=options)
    assert "[3] numbers an example; the data set 'mnist5k' has [10]" in refused("--weights", file)
    assert "cannot read the weights" in refused("--weights", str(tmp_path / "no.safetensors"))
    said = refused("--weights", file, "--scaling", "card")
    assert "scales 3 channels; the images have 1" in said
