"""The recipes of launch/ in the eyes of the tools that they are for."""

import copy
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from train.command.line import parse

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
TOOLS = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"


def complaints(tool, *arguments):
    command = [shutil.which(tool, path=TOOLS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.stdout + done.stderr


SCRIPTS = [*LAUNCH.glob("*.sh"), ROOT / ".ci/run", ROOT / ".ci/installs", ROOT / ".ci/types"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script):
    assert complaints("shellcheck", "--enable=quote-safe-variables", script) == ""


def test_hadolint_finds_nothing():
    assert complaints("hadolint", LAUNCH / "Containerfile") == ""


@pytest.fixture
def jobset():
    return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


def understood(jobset):
    """What the published types of JobSet and of Kubernetes keep of it: fields that they know."""
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

    return JobsetV1alpha2JobSet.from_dict(copy.deepcopy(jobset)).to_dict()


def pod(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


def test_every_field_of_the_jobset_is_known(jobset):
    assert understood(jobset) == jobset
    pod(jobset)["containers"][0]["volumeMount"] = []  # a slip, deep inside
    assert understood(jobset) != jobset


def test_the_command_of_the_jobset_is_a_run(jobset, monkeypatch):
    monkeypatch.chdir(ROOT)
    (container,) = pod(jobset)["containers"]
    assert container["command"][:3] == ["python", "-m", "train"]
    config = parse([*container["command"][3:], *container["args"]])
    assert config.processes.join and config.workdir == "/shared/runs/bat"
