"""Runs of several processes, on one machine over the loopback."""

import os
import re
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import spectral_flax as sf
from train.config import Mesh, Processes
from train.errors import UserError
from train.processes.distributed import any_process, is_main_process, join
from train.run import loop


def start(arguments, devices):
    flags = re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-m", "train", *map(str, arguments)]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=environment, **streams)


def begin(arguments, count, devices):
    """Start the command in ``count`` processes that meet."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    meet = ["--processes.coordinator", f"localhost:{port}", "--processes.count", count]
    return [start([*arguments, *meet, "--processes.index", i], devices) for i in range(count)]


def finish(processes, code=0):
    """Wait for processes, all of which must end with ``code``, and return what each printed."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert {process.returncode for process in processes} == {code}, "\n".join(outputs)
    return outputs


def parameters(workdir, step):
    return sf.read_weights(workdir / "checkpoints" / str(step)).tensors


def test_two_processes_take_the_steps_of_one(toy, toy_path, tmp_path):
    changes = ["--options.dropout", "0.0", "--steps", "4", "--mesh.fsdp", "2"]
    changes += ["--mesh.fsdp-min-size", "16", "--workdir", tmp_path / "two"]
    first, second = finish(begin([toy_path, *changes], count=2, devices=2))
    assert "test at step 4" in first and "step 4/4" not in second
    loop.run(toy(options={"dropout": 0.0}, steps=4, mesh=Mesh(devices=1)))
    one, two = (parameters(tmp_path / name, 4) for name in ("run", "two"))
    for name in one:
        if "rngs" not in name:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_signal_to_one_process_saves_and_stops_all(toy_path, tmp_path):
    run = [toy_path, "--steps", "100000", "--workdir", tmp_path / "run", "--log-every", "1"]
    run += ["--save-every", "100000"]
    first, second = processes = begin(run, count=2, devices=1)
    while not first.stdout.readline().startswith("step 2/"):
        assert first.poll() is None
    second.send_signal(signal.SIGTERM)
    said, _ = finish(processes, code=75)
    assert "SIGTERM at step" in said
    assert len(list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))) == 1


def test_processes_of_other_options_are_refused_before_anything_is_written(toy_path, tmp_path):
    run = [toy_path, "--workdir", tmp_path / "run", "--processes.log", "all", "--seed"]
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    meet = ["--processes.coordinator", f"localhost:{port}", "--processes.count", 2]
    processes = [start([*run, i, *meet, "--processes.index", i], 1) for i in range(2)]
    for index, said in enumerate(finish(processes, code=2)):
        assert f"[{index}] error: process 1: --seed is 0 in process 0, 1 here; start" in said
    assert not (tmp_path / "run").exists()


def test_a_process_alone_leads_and_agrees_with_itself():
    join(Processes())
    assert is_main_process() and any_process(15) == 15 and jax.process_count() == 1


@pytest.mark.parametrize("given", [dict(coordinator="localhost:1"), dict(count=2, index=0)])
def test_half_an_address_is_refused(given):
    with pytest.raises(UserError, match="go together"):
        join(Processes(**given))
