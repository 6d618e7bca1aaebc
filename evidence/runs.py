# SPDX-License-Identifier: Apache-2.0
"""Training runs, started in processes of their own and compared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from spectral_flax.checkpoints.orbax import read_orbax
from train.checkpoints.checkpoints import Checkpoints

ROOT = Path(__file__).parents[1]


def start(
    config: str, workdir: Path, *arguments: str, devices: int = 1, folder: Path = ROOT
) -> subprocess.Popen:
    """Start ``python -m train`` in ``folder``, in a process that sees so many devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = f"{ROOT}:{environment.get('PYTHONPATH', '')}"
    command = [
        sys.executable,
        "-m",
        "train",
        str(ROOT / config),
        "--workdir",
        str(workdir),
        *arguments,
    ]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def finish(*processes: subprocess.Popen) -> str:
    """Wait for the processes of a run and return what the first printed."""
    outputs = [process.communicate()[0].decode() for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            raise SystemExit(f"the run failed with {process.returncode}:\n{output}")
    return outputs[0]


def arrays(workdir: Path, groups: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of the newest checkpoint, whatever devices wrote it, and its position."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.steps()[0]
    record = checkpoints.record(step)
    checkpoints.close()
    found = {"position": np.frombuffer(json.dumps(record.position).encode(), np.uint8)}
    for group in groups or tuple(group for group, names in record.names.items() if names):
        leaves = read_orbax(checkpoints.directory / str(step) / group).tensors
        found |= {f"{group}.{name}": leaf for name, leaf in leaves.items()}
    return found
