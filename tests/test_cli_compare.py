# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from spectral_flax.analysis import measure
from spectral_flax.analysis.measure import Measurement, MeasurementError, measure_alone
from spectral_flax.cli import compare, main
from spectral_flax.models.registry import MODELS, get_model

SMALL = ["-O", "width=8", "-O", "depths=(1,1)", "-O", "num_classes=3", "--size", "32"]


@pytest.fixture
def measured(monkeypatch):
    """What was asked to be measured, in place of measuring it."""
    asked = []

    def measure_none(model, shape, **given):
        asked.append((model, shape, given))
        if model == "resnet34":
            raise MeasurementError("its process was ended by SIGKILL")
        return Measurement(seconds=0.25, compile_seconds=1.0, memory=3 * 2**20)

    monkeypatch.setattr(compare, "measure_alone", measure_none)
    return asked


def test_every_system_by_default_is_in_the_zoo():
    for task, names in compare.SYSTEMS.items():
        assert {get_model(name).rank for name in names} == {compare.RANKS[task]}
        assert all(MODELS[name].task == "classification" for name in names)


def test_a_table_has_costs_of_each_model_and_the_published_accuracy(measured, capsys):
    assert main(["compare", "--models", "resnet18", "resnet26", *SMALL]) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.strip().startswith("resnet18"))
    cells = [cell.strip() for cell in line.split("│")]
    assert cells[3:] == ["62.5", "62.5", "3", "3", "70.2"]  # a quarter second for four images
    assert "Input: 32x32." in shown and "batches of 4" in shown
    works = [(model, shape, given["work"]) for model, shape, given in measured]
    assert works[:2] == [("resnet18", (4, 32, 32, 3), w) for w in ("inference", "training")]
    assert measured[0][2]["options"]["input_size"] == (32, 32)


def test_a_model_that_fails_is_told_and_the_others_go_on(measured, capsys):
    assert main(["compare", "--json", "--models", "resnet34", "resnet18", *SMALL]) == 1
    rows = json.loads(capsys.readouterr().out)["models"]
    assert rows[0]["error"] == "its process was ended by SIGKILL"
    taken = {"seconds": 0.25, "compile_seconds": 1.0, "memory": 3 * 2**20}
    assert rows[1]["training"] == taken
    assert rows[1]["parameters"] > 0 and rows[1]["multiply_adds"] > 0


def test_counts_alone_measure_nothing(measured, capsys):
    assert main(["compare", "--no-time", "--task", "video", "--models", "tsm_resnet50",
                 "--size", "64", "--frames", "4"]) == 0  # fmt: skip
    assert not measured and "74.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--models", "resnet51"], "no model 'resnet51'; closest: "),
        (["--models", "vgg*"], "no model matches 'vgg*'"),
        (["--models", "c2d_resnet50"], "c2d_resnet50 is no model of images"),
        (["--models", "c2d_*"], "no model of images matches c2d_*"),
        (["--batch", "0"], "--batch 0 is not a positive number"),
        (["--seconds", "-1"], "--seconds -1.0 is not a positive number"),
        (["--task", "video", "--frames", "0"], "--frames 0 is not a positive number"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(words, told, measured, capsys):
    assert main(["compare", *words]) == 2
    assert told in capsys.readouterr().err and not measured


def test_a_process_of_its_own_measures_and_says_what_fails():
    options = dict(width=8, depths=(1,), num_classes=3)
    found = measure_alone(
        "resnet18", (2, 32, 32, 3), work="training", options=options, seconds=0.01
    )
    assert 0 < found.seconds < 60 and found.memory > 10_000
    with pytest.raises(MeasurementError, match="no option 'depth'"):
        measure_alone("resnet18", (2, 32, 32, 3), options={"depth": 3})


def test_it_measures_right_here_too():
    options = dict(width=8, depths=(1,), num_classes=3)
    found = measure.measure("resnet18", (2, 32, 32, 3), options=options, seconds=0.01)
    assert found.compile_seconds > 0 and found.memory > 10_000
    with pytest.raises(ValueError, match="work='play'; expected 'inference' or 'training'"):
        measure.measure("resnet18", (2, 32, 32, 3), work="play")
