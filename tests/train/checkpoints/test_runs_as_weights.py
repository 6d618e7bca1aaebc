"""Runs as sources of weights: which of their checkpoints and parameters, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import spectral_flax as sf
from spectral_flax.checkpoints.records import record_from_json, record_to_json
from spectral_flax.checkpoints.weights import variables
from spectral_flax.cli import main
from spectral_flax.models.record import ModelRecord, Preprocessing
from spectral_flax.models.registry import MODELS
from train.command.line import load
from train.config import Mesh
from train.run.loop import run

TOY_CONFIG = Path(__file__).parents[1] / "toy_config.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nobody changes, with averaged parameters and its best checkpoint."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    options = dict(steps=8, save_every=4, eval_every=4, log_every=4, ema_decay=0.5, best="accuracy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "toy", None)
        config = dataclasses.replace(load(TOY_CONFIG), **options, mesh=Mesh(devices=1))
        run(dataclasses.replace(config, workdir=str(workdir)))
    return workdir


@pytest.fixture
def trained(finished, toy, tmp_path):
    """The work directory of a copy of that run."""
    return str(shutil.copytree(finished, tmp_path / "run"))


def refused(source, told, **options):
    """Load what cannot be loaded; the message is a line."""
    with pytest.raises((ValueError, OSError), match=told) as caught:
        sf.load(source, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_every_place_of_a_run_is_a_model(trained):
    newest = sf.load(trained)
    assert (newest.record.step, newest.record.weights) == (8, "ema")
    assert newest.record.figures and newest.record.run["steps"] == 8
    for place in ("checkpoints", "checkpoints/8"):
        same = variables(sf.load(f"{trained}/{place}"))
        for name, array in variables(newest).items():
            np.testing.assert_array_equal(array, same[name])
    assert sf.load(f"{trained}/checkpoints/4").record.step == 4
    best = sf.load(f"{trained}/best").record
    assert best.figures["accuracy"] >= newest.record.figures["accuracy"]
    raw = sf.load(trained, weights="raw")
    assert raw.record.weights == "raw" and not raw.record.figures
    differ = [not np.array_equal(a, variables(raw)[n]) for n, a in variables(newest).items()]
    assert any(differ)


def test_what_a_run_lacks_is_said(trained, toy, tmp_path):
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    refused(tmp_path / "new", "has no checkpoint yet; looked in .*checkpoints")
    refused(f"{trained}/checkpoints/5", "checkpoints; closest|there is no file or folder")
    plain = toy(steps=1, workdir=str(tmp_path / "plain"))
    run(plain)
    refused(plain.workdir, "no averaged parameters; expected weights='raw'", weights="ema")
    refused(plain.workdir, "weights='last'; expected 'ema' or 'raw'", weights="last")


def test_damage_is_told_with_what_is_left(trained, tmp_path):
    (step,) = (tmp_path / "run" / "best").iterdir()
    file = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(f"{trained}/best", "the checkpoint .* is damaged: the file .* has another content")
    newest = tmp_path / "run" / "checkpoints" / "8"
    (newest / "params" / "_METADATA").unlink()
    refused(trained, "checkpoints/8 is damaged.*; there are also 4 beside it")


def test_a_record_of_a_later_version_is_refused(trained, tmp_path, capsys):
    assert main(["convert", str(trained), str(tmp_path / "folder")]) == 0
    config = tmp_path / "folder" / "config.json"
    config.write_text(config.read_text().replace('"format": 1', '"format": 2'))
    refused(tmp_path / "folder", "a record of format 2, which a later version .* up to 1")
    config.write_text('{"library": "timm", "architecture": "resnet18"}')
    assert sf.load(tmp_path / "folder").record.step == 8  # the weights tell it themselves


def test_a_record_is_the_same_after_json():
    record = ModelRecord(
        model="resnet18",
        options={"blocks_at": {2: (1, 3)}, "width": 8, "dtype": "bfloat16"},
        task="classification",
        preprocessing=Preprocessing(input_size=(8, 32, 32), fit="stretch", channel_order="BGR"),
        class_names=("räv", "a [b]\nc", ""),
        weights="ema",
        step=3,
        figures={"accuracy": 0.1 + 0.2},
        licence="MIT",
        source="https://example.org",
        run={"data": {"size": (3, 4), "path": None}, "freeze": ("stem",)},
    )
    text = record_to_json(record)
    found = record_from_json(text)
    assert found == record and found.figures["accuracy"] == 0.1 + 0.2
    assert '"input_size": [8, 32, 32]' in text  # in one line
    assert json.loads(text)["class_names"][1] == "a [b]\nc"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_names": "ab"}, "its 'class_names' is ab; expected a list"),
        ({"class_names": [1]}, "it names a class 1; expected a text"),
        ({"figures": {"a": "b"}}, "its figure 'a' is b; expected a number"),
        ({"weights": "best"}, "its 'weights' is best; expected 'raw' or 'ema'"),
        ({"step": True}, "its 'step' is True; expected a number"),
        ({"preprocessing": {"mean": [0], "std": [0]}}, "is not one: .*a positive number a channel"),
        ({"preprocessing": {"size": 3}}, "has 'size', which is unknown"),
        ({"preprocessing": {"fit": "squash"}}, "fit='squash'; expected one of 'crop'"),
        ({"format": "2"}, "a record of format 2, which a later version"),
        ({"library": "other"}, "not the record of a model of spectral_flax"),
    ],
    ids=str,
)
def test_records_of_other_kinds_are_refused_in_a_line(change, told):
    values = json.loads(record_to_json(ModelRecord(model="resnet18")))
    with pytest.raises(ValueError, match=told) as caught:
        record_from_json(json.dumps(values | change))
    assert len(str(caught.value).splitlines()) == 1


def test_a_configuration_of_timm_tells_model_and_preprocessing(tmp_path):
    from spectral_flax.checkpoints.records import read_record

    cfg = dict(input_size=[3, 288, 288], crop_pct=0.95, interpolation="bicubic", license="mit")
    told = {"architecture": "resnet50", "num_classes": 10, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(told | {"label_names": list("abcdefghij")}))
    record = read_record(tmp_path / "config.json")
    about = record.preprocessing
    assert (record.model, record.options, record.licence) == (
        "resnet50",
        {"num_classes": 10},
        "mit",
    )
    assert (about.input_size, about.resize, about.interpolation) == ((288, 288), 303, "bicubic")
    assert record.class_names == tuple("abcdefghij")
