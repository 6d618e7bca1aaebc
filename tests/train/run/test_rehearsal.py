"""A rehearsal does what a run does, and leaves nothing."""

import pytest

from train.__main__ import main
from train.config import Mesh
from train.run import rehearsal


def test_a_rehearsal_tells_what_a_run_takes_and_leaves_nothing(toy_path, tmp_path, capsys):
    workdir = tmp_path / "runs" / "one"
    shared = ["--mesh.fsdp", "2", "--mesh.fsdp-min-size", "16", "--mesh.devices", "2"]
    assert main([str(toy_path), "--workdir", str(workdir), "--rehearse", *shared]) == 0
    said = capsys.readouterr().out
    for name in ("2 cpu, data 1 x fsdp 2", "1,562", "memory a device", "all-gather", "read back"):
        assert name in said
    assert not (tmp_path / "runs").exists()


def test_a_rehearsal_that_fails_leaves_nothing_either(toy, tmp_path, monkeypatch):
    config = toy(mesh=Mesh(devices=1))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "own").write_text("kept")

    def full(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal, "begun", full)
    with pytest.raises(KeyboardInterrupt):
        rehearsal.rehearse(config)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["own"]
