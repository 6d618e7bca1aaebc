"""From a run to an answer: a trained model in every form gives the run's own figures."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import spectral_flax as sf
from spectral_flax.cli import main as command
from train.config import Config, Data, Mesh, Optimizer
from train.evaluate.__main__ import main as evaluate
from train.run.loop import run
from train.tasks import open_data

from .data.data_files import image_folder

TINY = dict(batch_size=4, steps=2, ema_decay=0.5, mesh=Mesh(devices=1), eval_batch_size=50)
POSE = dict(depths=(1, 1), deconvolutions=1, encoder_width=8, decoder_width=8)
LAMA = dict(discriminator_width=4, discriminator_layers=1)
RUNS = {
    "classification": Config(
        model="resnet18",
        options=dict(width=8, depths=(1,), stem="small"),
        data=Data(name="image_folder_classes", size=(16, 16)),
        best="accuracy",
    ),
    "clips": Config(
        model="c2d_resnet50",
        options=dict(width=4, depths=(1,)),
        data=Data(name="moving_digits", frames=2, size=(32, 32)),
    ),
    "segmentation": Config(
        task="segmentation",
        model="unet_star",
        options=dict(width=4),
        data=Data(name="ellipses", size=(32, 32)),
    ),
    "inpainting": Config(
        task="inpainting",
        model="lama",
        options=dict(width=4, blocks=1),
        task_options=LAMA,
        data=Data(name="textures", size=(16, 16)),
    ),
    "pose": Config(
        task="pose",
        model="pose_resnet18",
        options=POSE,
        data=Data(name="stick_figures", size=(64, 64)),
        optimizer=Optimizer(name="adam", learning_rate=1e-3),
    ),
}


# Formats and sources are read by the same code for every task; names in a .pth are a model's own.
FORMS = {
    "classification": ("model.safetensors", "model.pth", "folder", "raw.pth"),
    "clips": ("model.pth",),
    "segmentation": ("model.pth", "model.safetensors"),
    "inpainting": ("model.pth", "raw.pth"),
    "pose": ("model.pth", "folder"),
}


@pytest.fixture(scope="module", params=RUNS)
def trained(request, tmp_path_factory):
    """The work directory of a run, its config, and what it said at its end."""
    place = tmp_path_factory.mktemp(request.param)
    config = dataclasses.replace(RUNS[request.param], **TINY, workdir=str(place / "run"))
    if request.param == "classification":
        image_folder(place / "data", classes=("ant", "bee", "cat"), train=4, test=4)
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, path=str(place / "data"))
        )
    return place / "run", config, run(config)


def evaluated(capsys, folder, *words) -> dict[str, float]:
    """Return the figures that ``python -m train.evaluate`` writes."""
    words = [*map(str, words), "--output", str(folder), "--overwrite", "--devices", "1"]
    assert evaluate(words) == 0, capsys.readouterr().err
    capsys.readouterr()
    return json.loads((folder / "figures.json").read_text())["figures"]


def test_every_form_of_a_trained_model_has_the_figures_of_its_run(
    trained, tmp_path, capsys, request
):
    workdir, _, figures = trained
    forms = FORMS[request.node.callspec.params["trained"]]
    record = json.loads((workdir / "config.json").read_text())
    assert record["figures"] == figures and record["weights"] == "ema" and record["step"] == 2
    for name in (form for form in forms if form != "raw.pth"):
        assert command(["convert", str(workdir), str(tmp_path / name)]) == 0
        assert evaluated(capsys, tmp_path / "out", "--weights", tmp_path / name) == figures, name
    if "raw.pth" in forms:
        raw = evaluated(capsys, tmp_path / "out", "--workdir", workdir, "--no-ema")
        assert raw != figures
        assert command(["convert", str(workdir), str(tmp_path / "raw.pth"), "--raw"]) == 0
        assert evaluated(capsys, tmp_path / "out", "--weights", tmp_path / "raw.pth") == raw


def test_a_run_loads_in_one_line_and_knows_what_it_is(trained):
    workdir, config, figures = trained
    model = sf.load(workdir)
    record = model.record
    assert (record.model, record.task, record.step) == (config.model, config.task, 2)
    assert record.figures == figures and record.weights == "ema"
    last = sf.load(workdir / "checkpoints" / "2", weights="raw").record
    assert last.weights == "raw" and not last.figures
    size = record.preprocessing.input_size[-2:]
    assert size == tuple(config.data.size)


def test_predictions_are_those_that_the_run_was_judged_by(trained, tmp_path):
    workdir, config, figures = trained
    model, source = sf.load(workdir), open_data(config, "test")
    match config.task:
        case "classification":
            examples = [source[i] for i in range(min(len(source), 200))]
            if config.data.path is not None:
                assert model.record.class_names == ("ant", "bee", "cat")
                files = [source.items.name(i) for i in range(len(source))]
                found = sf.predict(model, files, top=1)
                names = [model.record.class_names[e["label"]] for e in examples]
            else:
                found = sf.predict(model, [e["image"] for e in examples], top=1)
                names = [f"class {e['label']}" for e in examples]
            right = [best.label == name for (best,), name in zip(found, names, strict=True)]
            if len(examples) == len(source):
                assert np.mean(right) == figures["accuracy"]
        case "segmentation":
            images, masks = (np.stack([source[i][k] for i in range(len(source))])
                             for k in ("image", "mask"))  # fmt: skip
            found = np.stack(sf.predict(model, list(images)))
            assert found.shape == masks.shape
            assert np.mean(found == masks) == pytest.approx(figures["accuracy"], abs=1e-9)
        case "inpainting":
            example = source[0]
            for name in ("image", "mask"):
                pixels = np.uint8(example[name] * (255 if name == "mask" else 1))
                Image.fromarray(pixels).save(tmp_path / f"{name}.png")
            words = [str(tmp_path / f"{name}.png") for name in ("image", "mask")]
            out = ["-o", str(tmp_path / "out.png"), "--weights", str(workdir)]
            assert command(["inpaint", *words, *out]) == 0
            filled = sf.inpaint(model, example["image"], example["mask"])
            known = example["mask"] == 0
            np.testing.assert_array_equal(filled[known], example["image"][known])
            with pytest.raises(ValueError, match=r"sf\.inpaint\(model, image, mask\)"):
                sf.predict(model, example["image"])
        case "pose":
            pose = sf.predict(model, source[0]["image"])
            assert pose.joints.shape == (1, 17, 2) and pose.scores.shape == (1, 17)
