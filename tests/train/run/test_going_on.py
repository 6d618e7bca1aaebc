"""What a command that goes on with a run refuses, before anything is compiled, and what it says."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from own_models import entry

from spectral_flax.models.registry import MODELS
from train.command.line import load
from train.config import Mesh
from train.errors import UserError
from train.evaluate.__main__ import main
from train.run import loop

TOY_CONFIG = Path(__file__).parents[1] / "toy_config.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps that nobody changes, and its config."""
    workdir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "toy", None)
        config = dataclasses.replace(load(TOY_CONFIG), steps=4, mesh=Mesh(devices=1))
        loop.run(dataclasses.replace(config, workdir=str(workdir), best="accuracy"))
    return workdir


@pytest.fixture
def copy(finished, toy, tmp_path, monkeypatch):
    """Return a function that goes on with a copy of that run, in which nothing is compiled."""
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(loop, "make_train_step", None)
    return lambda **changes: loop.run(toy(**{"steps": 4} | changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": {"clip_norm": 1.0}}, r"optimizer\.clip_norm: None there, 1\.0 here"),
        (
            {"optimizer": {"momentum": 0.5, "clip_norm": 2.0}},
            r"optimizer\.momentum(.|\n)*clip_norm",
        ),
        ({"options": {"width": 8}}, r"options\.width: not given there, 8 here"),
    ],
)
def test_the_option_that_makes_it_another_model_or_optimiser_is_named(copy, toy, changes, named):
    if "optimizer" in changes:
        given = dataclasses.replace(toy().optimizer, **changes["optimizer"])
        changes = {"optimizer": given}
    with pytest.raises(UserError, match=named):
        copy(**changes)


def test_code_that_changed_is_told_from_damage(copy, tmp_path, monkeypatch):
    narrow = MODELS["toy"]

    def wide(*, num_classes, in_features, rngs):
        return narrow(num_classes=num_classes, in_features=in_features, width=5, rngs=rngs)

    monkeypatch.setitem(MODELS, "toy", entry("toy", wide))
    with pytest.raises(
        UserError, match=r"code has changed(.|\n)*params conv\.bias is float32\[4\]"
    ):
        copy()
    assert not (tmp_path / "run" / "damaged").exists()


@pytest.mark.parametrize("changes", [{"steps": 3}, {"steps": None, "epochs": 0.01}])
def test_fewer_steps_than_are_done_are_refused(copy, changes):
    with pytest.raises(UserError, match=r"(--steps is 3|--epochs 0.01 are 1 steps).*has done 4"):
        copy(**changes)


def test_a_figure_to_be_best_in_is_known_at_the_start(toy, monkeypatch):
    monkeypatch.setattr(loop, "make_train_step", None)
    with pytest.raises(UserError, match="--best is 'fid'; the figures are accuracy"):
        loop.run(toy(best="fid"))


def test_a_damaged_best_does_not_end_the_run(copy, toy, tmp_path, capsys, monkeypatch):
    (best,) = (tmp_path / "run" / "best").iterdir()
    (best / "record" / "metadata").write_text("{")
    monkeypatch.setattr(loop, "make_train_step", lambda *_: None)
    copy(best="accuracy")  # evaluates once more
    assert "is set aside" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "run" / "best").iterdir()] == ["4"]


def test_a_work_directory_that_is_removed_ends_the_run_with_a_word(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_train_step", lambda *_: None)
    evaluate = loop.evaluate

    def removing(*arguments):
        shutil.rmtree(tmp_path / "run")
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", removing)
    with pytest.raises(UserError, match="has been removed"):
        copy()


@pytest.mark.parametrize("workdir", ["gs:/bucket/run", "s3://b", "", None])
def test_a_work_directory_that_is_no_folder_is_refused(toy, workdir):
    with pytest.raises(UserError, match=r"workdir is "):
        loop.run(toy(workdir=workdir))


@pytest.mark.parametrize("option", ["--workdir", "--weights", "--config", "--output"])
@pytest.mark.parametrize("path", ["s3://b/x", ""])
def test_paths_of_an_evaluation_are_local_ones(option, path, capsys):
    assert main([option, path]) == 2
    assert f"error: {option} is {path!r}; expected" in capsys.readouterr().err


def test_results_are_not_overwritten_unasked(finished, toy, tmp_path, capsys, monkeypatch):
    (tmp_path / "figures.json").write_text("mine")
    words = ["--workdir", str(finished), "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("train.evaluate.runs_and_weights.make_eval_step", None)
        assert main(words) == 2
    assert "holds figures.json already" in capsys.readouterr().err
    assert (tmp_path / "figures.json").read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert "accuracy" in (tmp_path / "figures.json").read_text()


def test_only_commands_and_what_speaks_for_all_processes_print():
    root = Path(loop.__file__).parents[1]
    printing = {p.name for p in root.rglob("*.py") if " print(" in p.read_text()}
    assert printing == {"__main__.py", "distributed.py", "unreadable.py"}


@pytest.mark.parametrize("holder", [b"\xff\x1b[31m" + b"x" * 999, b"process 3 on host"])
def test_the_holder_of_a_work_directory_is_shown_plainly(toy, tmp_path, holder):
    import fcntl

    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / ".lock"
    lock.write_bytes(holder)
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is in use by") as error:
            loop.run(toy())
    assert str(error.value).isprintable() and len(str(error.value)) < 400
    assert lock.read_bytes() == holder
