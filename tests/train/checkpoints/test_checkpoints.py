"""Checkpoints by themselves, of a state of a few numbers."""

import dataclasses
import json
import math
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from spectral_flax.checkpoints import manifest
from train.checkpoints.best import BestCheckpoint
from train.checkpoints.checkpoints import Checkpoints, DamagedCheckpointError
from train.checkpoints.state import make_state, state_groups
from train.config import Config, to_text
from train.errors import SaveFailedError, UserError

CONFIG = Config()
DIRECTIONS = {"accuracy": "max", "rmse": "min"}


def state(step=0, value=0.0, shape=(2, 3)):
    params = {"head.kernel": jnp.full(shape, value)}
    made = make_state(CONFIG, params, {"norm.mean": jnp.arange(3.0)}, optax.trace(0.9))
    return made._replace(step=jnp.int32(step))


def saved(folder, steps, keep=5):
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(CONFIG, state(step, float(step)), {"next_index": step})
    checkpoints.wait()
    return checkpoints


def newest(folder):
    checkpoints = Checkpoints(folder, keep=5)
    record, groups = checkpoints.newest(lambda record: state_groups(state()))
    checkpoints.close()
    return record.step, groups


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def test_what_is_restored_is_what_was_saved(folder):
    saved(folder, [4]).close()
    step, groups = newest(folder)
    expected = state_groups(state(4, 4.0))
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, groups, expected)


def test_no_array_is_brought_to_the_host_before_it_is_written(folder, monkeypatch):
    monkeypatch.setattr("train.checkpoints.checkpoints._digest", None)
    monkeypatch.setattr("train.checkpoints.checkpoints.multihost_utils", None)
    saved(folder, [4]).close()


def test_a_copy_under_a_higher_number_is_damaged_and_the_run_goes_on_and_saves(folder, capsys):
    saved(folder, [4, 8]).close()
    shutil.copytree(folder / "4", folder / "100")
    checkpoints = Checkpoints(folder, keep=5)
    record, _ = checkpoints.newest(lambda record: state_groups(state()))
    checkpoints.save(CONFIG, state(12), None)
    checkpoints.wait()
    checkpoints.close()
    assert record.step == 8
    assert "step 100 is damaged: it is a copy of step 4" in capsys.readouterr().out
    assert sorted(int(p.name) for p in folder.iterdir()) == [4, 8, 12]
    assert [p.name for p in (folder.parent / "damaged").iterdir()] == ["0_step_100"]


@pytest.mark.parametrize("step", [4, 6, 8])
def test_a_save_that_is_not_made_is_an_error(folder, step):
    checkpoints = saved(folder, [4, 8])
    with pytest.raises(SaveFailedError, match=f"step {step}"):
        checkpoints.save(CONFIG, state(step), None)
    checkpoints.close()


def test_a_folder_that_appears_in_the_place_of_a_save_is_not_overwritten(folder):
    checkpoints = saved(folder, [4])
    (folder / "8").mkdir()
    (folder / "8" / "mine").write_text("kept")
    with pytest.raises(SaveFailedError, match="one of step 8 already"):
        checkpoints.save(CONFIG, state(8), None)
    assert (folder / "8" / "mine").read_text() == "kept"
    checkpoints.close()


def test_a_directory_that_is_removed_meanwhile_is_said(folder):
    checkpoints = saved(folder, [4])
    shutil.rmtree(folder.parent)
    with pytest.raises(SaveFailedError, match="has been removed"):
        checkpoints.save(CONFIG, state(8), None)
    checkpoints.close()


def test_a_checkpoint_without_its_list_of_files_is_damaged(folder):
    saved(folder, [4, 8]).close()
    (folder / "8" / manifest.NAME).unlink()
    assert newest(folder)[0] == 4


def test_what_was_set_aside_before_is_never_overwritten(folder):
    damaged = folder.parent / "damaged"
    damaged.mkdir()
    for name in ("1_step_8", "3_step_8"):
        (damaged / name).mkdir()
        (damaged / name / "old").write_text(name)
    saved(folder, [4, 8]).close()
    (folder / "8" / manifest.NAME).unlink()
    newest(folder)
    assert sorted(p.name for p in damaged.iterdir()) == ["0_step_8", "1_step_8", "3_step_8"]
    assert [(damaged / n / "old").read_text() for n in ("1_step_8", "3_step_8")]
    for number in (2, 4):  # the next free names
        checkpoints = saved(folder, [8])
        (folder / "8" / manifest.NAME).unlink()
        checkpoints.close()
        newest(folder)
        assert (damaged / f"{number}_step_8" / "_CHECKPOINT_METADATA").exists()


def digest(array):
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


@pytest.mark.parametrize("wrong", [0, 1])
def test_checkpoints_of_format_2_are_restored_and_verified_by_their_digests(folder, wrong):
    groups = state_groups(state(4, 4.0))
    digests = {g: {n: digest(a) for n, a in leaves.items()} for g, leaves in groups.items()}
    digests["params"]["head.kernel"] += wrong
    record = {"format": 2, "step": 4, "config": to_text(CONFIG), "position": None}
    text = json.dumps(record | {"digests": digests, "figures": {}})
    items = {name: ocp.args.StandardSave(leaves) for name, leaves in groups.items() if leaves}
    items["record"] = ocp.args.JsonSave({"text": text, "crc32": zlib.crc32(text.encode())})
    with ocp.CheckpointManager(folder) as manager:
        manager.save(4, args=ocp.args.Composite(**items))
    if wrong:
        with pytest.raises(UserError, match="every checkpoint"):
            newest(folder)
    else:
        np.testing.assert_array_equal(newest(folder)[1]["params"]["head.kernel"], 4.0)


def test_a_record_of_another_version_is_refused_and_nothing_is_moved(folder):
    record = {"format": 3, "step": 4, "config": "{'colour': 3}", "position": None}
    text = json.dumps(record | {"names": {}, "figures": {}})
    items = {"record": ocp.args.JsonSave({"text": text, "crc32": zlib.crc32(text.encode())})}
    with ocp.CheckpointManager(folder) as manager:
        manager.save(4, args=ocp.args.Composite(**items))
    manifest.write(folder / "4")
    with pytest.raises(UserError, match="another version"):
        newest(folder)
    assert (folder / "4").exists()


def test_arrays_of_other_shapes_are_another_model_and_no_damage(folder):
    saved(folder, [4]).close()
    checkpoints = Checkpoints(folder)
    record = checkpoints.record(4)
    like = state_groups(state(shape=(2, 5)))
    with pytest.raises(UserError, match=r"head.kernel is float32\[2, 3\], expected float32\[2, 5"):
        checkpoints.restore(4, record, like)
    checkpoints.close()


# The best


def best(folder, figure="accuracy"):
    return BestCheckpoint(folder, figure, DIRECTIONS)


def offered(folder, values, figure="accuracy"):
    kept = best(folder, figure)
    for step, value in values:
        kept.offer(CONFIG, state(step, float(step)), None, {figure: value})
    kept.close()
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


@pytest.mark.parametrize(
    ("figure", "values", "expected"),
    [
        ("accuracy", [0.1, 0.3, 0.2], 2),
        ("rmse", [3.0, 1.0, 2.0], 2),
        ("rmse", [1.0, 2.0, 3.0], 1),
        ("rmse", [math.nan, 5.0, math.nan], 2),
        ("accuracy", [math.nan, 0.1, 0.05], 2),
        ("rmse", [math.inf, 5.0, 6.0], 2),
    ],
)
def test_the_best_figure_is_that_of_its_direction_and_a_number(tmp_path, figure, values, expected):
    assert offered(tmp_path / "best", enumerate(values, 1), figure) == [expected]


def test_the_best_may_be_of_an_earlier_step_than_the_one_before(tmp_path):
    values = [(8, 0.5), (4, 0.7), (4, 0.9), (12, 0.8)]
    assert offered(tmp_path / "best", values) == [4]
    kept = Checkpoints(tmp_path / "best")
    assert kept.record(4).figures == {"accuracy": 0.9}
    kept.close()


def test_an_unknown_figure_names_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"'rmsee'; the figures are accuracy, rmse"):
        best(tmp_path / "best", "rmsee")


def test_a_damaged_best_is_set_aside_and_the_next_takes_its_place(tmp_path, capsys):
    offered(tmp_path / "best", [(4, 0.9)])
    kept = best(tmp_path / "best")
    (tmp_path / "best" / "4" / "files.json").write_text("{")
    kept.offer(CONFIG, state(8), None, {"accuracy": 0.1})
    kept.close()
    assert "best checkpoint, of step 4, is damaged" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["8"]
    assert [p.name for p in (tmp_path / "damaged").iterdir()] == ["0_best_4"]


def test_a_best_that_was_damaged_between_runs_is_set_aside_at_the_start(tmp_path, capsys):
    offered(tmp_path / "best", [(4, 0.9)])
    shutil.rmtree(tmp_path / "best" / "4" / "params")
    best(tmp_path / "best").close()
    assert "is damaged" in capsys.readouterr().out
    assert not list((tmp_path / "best").iterdir())


def test_the_record_of_another_step_is_no_record_of_this_one(folder):
    saved(folder, [4]).close()
    shutil.copytree(folder / "4", folder / "3")
    checkpoints = Checkpoints(folder)
    with pytest.raises(DamagedCheckpointError, match="copy of step 4"):
        checkpoints.record(3)
    checkpoints.close()


def test_configs_of_a_record_are_read_as_they_were_written(folder):
    config = dataclasses.replace(CONFIG, options={"blocks_at": {2: (1, 3)}})
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(config, state(1), None)
    checkpoints.wait()
    assert checkpoints.record(1).config == config
    checkpoints.close()
