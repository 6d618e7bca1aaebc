"""What earlier versions of this library saved: it loads, and computes what it did.

``earlier/`` was written when a block stood beside the stages of its network, ``inserted.stage2_0``,
and not in them.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest
from applied import apply

import spectral_flax as sf
from train.config import Config, Data, Mesh, Optimizer
from train.evaluate.runs_and_weights import evaluate_run
from train.run.loop import run

FILES = pathlib.Path(__file__).parent / "earlier"


@pytest.mark.parametrize("kind", ["resnet", "pose", "unet", "video"])
def test_models_load_and_compute_what_they_did(kind):
    with np.load(FILES / "outputs.npz") as stored:
        x, expected = stored["x"], stored[kind]
    model = sf.load(FILES / f"{kind}.safetensors")
    model.eval()
    y = apply(model, x if kind == "video" else x[:, 0])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def unpacked(folder):
    with tarfile.open(FILES / "run.tar.gz") as file:
        file.extractall(folder, filter="data")
    return folder / "run"


def test_a_run_is_evaluated(tmp_path):
    figures = evaluate_run(unpacked(tmp_path)).metrics
    assert figures["loss"] == pytest.approx(2.3452, abs=1e-4)


def test_a_run_goes_on(tmp_path):
    workdir = unpacked(tmp_path)
    config = Config(
        model="resnet18_nl",
        options={
            "width": 4,
            "depths": (1, 2, 2),
            "stem": "small",
            "blocks_at": {2: (0,), 3: (1,)},
        },
        batch_size=64,
        steps=6,
        ema_decay=0.9,
        keep=1,
        data=Data(name="mnist5k"),
        optimizer=Optimizer(learning_rate=0.1),
        mesh=Mesh(devices=1),
        eval_batch_size=500,
        log_every=1,
        workdir=str(workdir),
    )
    figures = run(config)
    assert figures["loss"] == pytest.approx(2.3470, abs=2e-4)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["step"] == 6 and line["split"] == "train"]
    assert trained[0]["loss"] == pytest.approx(2.69841, abs=1e-4)
