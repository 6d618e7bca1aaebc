"""A run in a bucket is that on a disk: its numbers, its files, and what goes on from it."""

import json

import jax
import numpy as np
import pytest

import spectral_flax as sf
from spectral_flax import buckets
from spectral_flax.checkpoints.orbax import read_orbax
from spectral_flax.files import any_path
from train.checkpoints.checkpoints import Checkpoints
from train.evaluate.runs_and_weights import evaluate_run
from train.report.lines import lines_at
from train.report.throughput import MEASURED
from train.run import loop

STEPS = 6


def arrays(workdir):
    """Return every array of the last checkpoint, and its position in the data."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    record = checkpoints.record(STEPS)
    checkpoints.close()
    found = {"position": np.array(record.position["next_index"])}
    for group, names in record.names.items():
        if names:
            tensors = read_orbax(workdir / "checkpoints" / str(STEPS) / group).tensors
            found |= {f"{group}.{name}": tensor for name, tensor in tensors.items()}
    return found


def entries(workdir):
    lines = lines_at(workdir / "metrics.jsonl").read().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in MEASURED} for line in lines]


def test_a_run_stopped_in_a_bucket_ends_as_one_on_a_disk(toy, bucket, tmp_path, monkeypatch):
    settings = dict(steps=STEPS, save_every=2, keep=2, best="accuracy")
    loop.run(toy(**settings))
    remote = settings | dict(workdir=bucket[0])
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        take, count = loop.shard_batch, iter(range(99))

        def dying(mesh, batch):
            if next(count) == 3:
                raise SystemExit
            return take(mesh, batch)

        patch.setattr(loop, "shard_batch", dying)
        loop.run(toy(**remote))
    workdir, local = any_path(bucket[0]), tmp_path / "run"
    # What a kill within the save of step 4 leaves.
    buckets.write_bytes(workdir / "checkpoints" / "4" / "params" / "_METADATA", b"{")
    loop.run(toy(**remote))

    assert entries(workdir) == entries(local)
    there = set(buckets.listed(workdir))
    assert {"curves.png", "samples.png", "config.json", "metrics.jsonl/000000.jsonl"} <= there
    assert "lease.json" not in there
    evaluated = [evaluate_run(place).metrics for place in (workdir, local)]
    assert evaluated[0] == evaluated[1]
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    outputs = [sf.load(str(place))(images) for place in (workdir, local)]
    np.testing.assert_array_equal(*outputs)

    copy = tmp_path / "copy"  # taken home, the run is whole, and goes on
    buckets.fetch_folder(workdir, copy, there)
    jax.tree.map(np.testing.assert_array_equal, arrays(copy), arrays(local))
    assert entries(copy) == entries(local)
    loop.run(toy(**settings | dict(workdir=str(copy), steps=STEPS + 1)))


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(toy, bucket, capsys):
    loop.run(toy(workdir=bucket[0], steps=4, save_every=2))
    workdir = any_path(bucket[0])
    step = workdir / "checkpoints" / "4"
    largest = max(buckets.listed(step).items(), key=lambda pair: pair[1].size)[0]
    buckets.write_bytes(step / largest, b"something else")
    loop.run(toy(workdir=bucket[0], steps=4, save_every=2))
    said = capsys.readouterr().out
    assert f"the file {largest} has another content" in said
    assert "going on from the one before it, step 2" in said
    assert buckets.folders_in(workdir / "damaged") == ["0_step_4"]
