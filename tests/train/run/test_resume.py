import contextlib
import dataclasses
import json
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from spectral_flax.checkpoints import manifest
from spectral_flax.checkpoints.orbax import read_orbax
from spectral_flax.models.registry import MODELS
from train.__main__ import main
from train.checkpoints.checkpoints import Checkpoints
from train.command.line import load
from train.config import Mesh
from train.errors import UserError
from train.report.throughput import MEASURED
from train.run import loop

TOY_CONFIG = Path(__file__).parents[1] / "toy_config.py"


def arrays(workdir: Path, step: int = 12):
    """Return the checksum of every array of a checkpoint, and its position in the data."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    record = checkpoints.record(step)
    checkpoints.close()
    groups = {
        group: read_orbax(workdir / "checkpoints" / str(step) / group).tensors
        for group, names in record.names.items()
        if names
    }
    digests = {
        (group, name): zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        for group, tensors in groups.items()
        for name, array in tensors.items()
    }
    return digests, record.position


def stop_at(monkeypatch, step):
    """Let the run die without a word just before it dispatches a step."""
    take = loop.shard_batch
    count = iter(range(10**6))

    def dying(mesh, batch):
        if next(count) == step:
            raise SystemExit
        return take(mesh, batch)

    monkeypatch.setattr(loop, "shard_batch", dying)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of one run to its end, which no test may change."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "toy", None)
        config = dataclasses.replace(load(TOY_CONFIG), workdir=str(workdir), mesh=Mesh(devices=1))
        loop.run(config)
    return workdir


@pytest.fixture
def unbroken(finished, tmp_path):
    """A copy of the run, for this test alone."""
    return shutil.copytree(finished, tmp_path / "unbroken")


def test_a_resumed_run_ends_in_the_same_bits(toy, unbroken, monkeypatch, tmp_path, capsys):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at(patch, 7)
        loop.run(toy())
    loop.run(toy())
    assert "going on from step 4" in capsys.readouterr().out
    assert arrays(tmp_path / "run") == arrays(unbroken)


def test_resuming_leaves_each_metric_once_and_unchanged(toy, unbroken, monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at(patch, 7)
        loop.run(toy())
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "spl')  # a line cut short
    loop.run(toy())

    def entries(workdir):
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in e.items() if k not in MEASURED} for e in lines]

    assert entries(tmp_path / "run") == entries(unbroken)


def test_a_run_goes_on_with_another_number_of_devices(toy, tmp_path):
    loop.run(toy(mesh=Mesh(devices=8), steps=4))
    digests, _ = arrays(tmp_path / "run", 4)
    loop.run(toy(mesh=Mesh(devices=2), steps=8))
    assert arrays(tmp_path / "run", 4)[0] == digests
    assert arrays(tmp_path / "run", 8)[1] == {"next_index": 8}


def test_metrics_of_a_run_without_checkpoints_are_kept(toy, tmp_path):
    (tmp_path / "run").mkdir()
    old = '{"step": 3, "split": "train", "loss": 1.0}\n'
    (tmp_path / "run" / "metrics.jsonl").write_text(old)
    loop.run(toy(steps=2))
    assert (tmp_path / "run" / "metrics.before_1.jsonl").read_text() == old
    assert '"step": 3' not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "changes",
    [{"options": {"width": 8}}, {"seed": 1}, {"batch_size": 16}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_run_in_the_workdir_is_refused_and_kept(toy, unbroken, changes):
    before = arrays(unbroken)
    with pytest.raises(UserError, match=f"holds another run(.|\n)*{next(iter(changes))}"):
        loop.run(toy(workdir=str(unbroken), **changes))
    assert arrays(unbroken) == before


def damage_byte(step: Path):
    """Flip one bit inside the stored numbers."""
    path = max((step / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def damage_truncated(step: Path):
    for path in (step / "optimizer").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:50])


def damage_metadata(step: Path):
    (step / "params" / "_METADATA").write_text("{")


def damage_record(step: Path):
    path = step / "record" / "metadata"
    path.write_text(path.read_text().replace('next_index\\": 12', 'next_index\\": 13'))


def damage_missing(step: Path):
    for path in (step / "rest").rglob("*.ocdbt"):
        path.unlink()


DAMAGES = [damage_byte, damage_truncated, damage_metadata, damage_record, damage_missing]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(toy, unbroken, damage, capsys):
    before = arrays(unbroken)
    damage(unbroken / "checkpoints" / "12")
    loop.run(toy(workdir=str(unbroken)))
    shown = capsys.readouterr().out
    assert "the checkpoint of step 12 is damaged" in shown and "step 8" in shown
    assert arrays(unbroken) == before
    assert [p.name for p in (unbroken / "damaged").iterdir()] == ["0_step_12"]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(toy, unbroken):
    for step in ("8", "12"):
        damage_byte(unbroken / "checkpoints" / step)
    with pytest.raises(UserError, match=r"every checkpoint.*is damaged"):
        loop.run(toy(workdir=str(unbroken)))
    assert sorted(p.name for p in (unbroken / "checkpoints").iterdir()) == ["12", "8"]


def test_a_killed_run_ends_in_the_same_bits(finished, toy, toy_path, tmp_path):
    command = [sys.executable, "-m", "train", str(toy_path), "--mesh.devices", "1"]
    command += ["--workdir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step 6"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    loop.run(toy())
    assert arrays(tmp_path / "run") == arrays(finished)


def test_the_best_checkpoint_is_the_one_with_the_best_figure(toy, tmp_path):
    loop.run(toy(eval_every=2, best="accuracy", keep=1))
    entries = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    accuracies = {e["step"]: e["accuracy"] for e in entries if e["split"] == "test"}
    (best,) = (int(p.name) for p in (tmp_path / "run" / "best").iterdir())
    assert accuracies[best] == max(accuracies.values())


def test_a_best_figure_that_does_not_exist_names_those_there_are(toy):
    with pytest.raises(UserError, match="best is 'acuracy'; the figures are accuracy"):
        loop.run(toy(best="acuracy", steps=2))


@pytest.fixture
def small_disk():
    """Return a context in which files have 128 KiB at most, as a full disk would cut them."""

    @contextlib.contextmanager
    def limited():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


def test_a_disk_that_is_full_is_said_and_leaves_what_was_saved(
    toy, small_disk, toy_path, tmp_path, capsys
):
    words = [str(toy_path), "--mesh.devices", "1", "--steps", "4", "--options.width", "200"]
    words += ["--workdir", str(tmp_path / "run")]
    with small_disk():
        assert main(words) == 2
    said = capsys.readouterr().err
    assert "could not be written" in said and "the disk is full" in said
    assert main(words) == 0


def test_a_checkpoint_lists_its_files(toy, unbroken):
    step = unbroken / "checkpoints" / "12"
    assert manifest.fault(step) is None
    damage_missing(step)
    assert "is missing" in manifest.fault(step)
    (step / manifest.NAME).write_text("{")
    assert "list of files" in manifest.fault(step)
    (step / manifest.NAME).unlink()
    assert manifest.fault(step) is None
