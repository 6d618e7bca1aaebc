"""Fine-tuning: what is frozen stays, rates fall with depth, the weights tell their model."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.weights import variables
from train.checkpoints.pretrained import adopted, frozen_parameters
from train.command.checks import check
from train.command.line import load
from train.config import Config, Data, Mesh, Optimizer, Pretrained
from train.data import open_source
from train.data.augment import erased
from train.errors import UserError
from train.run.loop import run
from train.run.optimizers import layer_rates, make_optimizer
from train.tasks import make_task

from ..data.data_files import image_folder

SMALL = dict(width=4, depths=(1, 1), stem="small")


def small(**changes) -> Config:
    config = Config(
        model="resnet18",
        options=SMALL,
        batch_size=4,
        steps=1,
        data=Data(name="mnist5k"),
        mesh=Mesh(devices=1),
        eval_batch_size=500,
        optimizer=Optimizer(learning_rate=0.1, reference_batch=None),
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("parallel", ["pjit", "pmap"])
def test_frozen_parts_keep_parameters_and_statistics_and_have_no_state(parallel, tmp_path, capsys):
    devices = 1 if parallel == "pjit" else 2
    config = small(freeze=("stem", "stage1"), parallel=parallel, mesh=Mesh(devices=devices))
    config = dataclasses.replace(config, workdir=str(tmp_path / "run"), ema_decay=0.5)
    run(config)
    assert "frozen: " in capsys.readouterr().out
    before = variables(
        sf.create_model("resnet18", num_classes=10, in_features=1, **SMALL, rngs=nnx.Rngs(0))
    )
    after = variables(sf.load(tmp_path / "run", weights="raw"))
    averaged = variables(sf.load(tmp_path / "run"))
    for name, array in before.items():
        frozen = name.startswith(("stem.", "stage1."))
        assert np.array_equal(after[name], array) is frozen, name
        assert not frozen or np.allclose(averaged[name], array, rtol=1e-6), name


def test_frozen_parameters_have_no_optimiser_state():
    params = {"stem.kernel": np.ones((2, 2)), "head.kernel": np.ones((2, 2))}
    tx = make_optimizer(Optimizer(name="adamw"), lambda _: 0.1, frozen={"stem.kernel"})
    state = tx.init(params)
    assert sum(leaf.ndim == 2 for leaf in jax.tree.leaves(state)) == 2  # two moments of the head
    updates, _ = tx.update(params, state, params)
    assert not updates["stem.kernel"].any() and updates["head.kernel"].all()


def test_a_typo_in_a_frozen_part_names_the_parts():
    model = sf.abstract_model("resnet18", **SMALL)
    with pytest.raises(UserError, match=r"--freeze='steam' names no part .*stem"):
        frozen_parameters(model, ("steam",))
    with pytest.raises(UserError, match="every parameter is frozen"):
        frozen_parameters(model, ("stem", "stage?", "head"))


def test_rates_fall_from_the_head_to_the_stem():
    model = sf.create_model("resnet18", width=4, depths=(2, 1), stem="small")
    names = list(variables(model))
    rates = layer_rates(names, 0.5, head_rate=10)
    first = lambda part: {rates[n] for n in names if n.startswith(part)}
    assert first("head.") == {10.0} and first("stage2.0.") == {0.5}
    assert first("stage1.1.") == {0.25} and first("stage1.0.") == {0.125}
    assert first("stem.") == {0.0625}
    assert set(layer_rates(names, 1.0).values()) == {1.0}
    assert layer_rates(["conv.kernel", "head.kernel"], 1.0, 10)["head.kernel"] == 10
    with pytest.raises(UserError, match="the model has no stages"):
        layer_rates(["first.kernel", "last.kernel"], 0.5)


def test_updates_are_scaled_by_these_rates():
    params = {n: np.ones((2, 2)) for n in ("stem.conv.kernel", "stage1.0.kernel", "head.kernel")}
    rules = dict(name="sgd", momentum=0.0, weight_decay=0.0)
    tx = make_optimizer(Optimizer(layer_decay=0.5, head_rate=4, **rules), lambda _: 1.0)
    updates, _ = tx.update(params, tx.init(params), params)
    assert {n: float(-u[0, 0]) for n, u in updates.items()} == {
        "stem.conv.kernel": 0.25,
        "stage1.0.kernel": 0.5,
        "head.kernel": 4.0,
    }


def test_a_run_on_a_folder_takes_model_options_and_size_from_a_run(tmp_path, capsys):
    image_folder(tmp_path / "old", classes=("ant", "bee"), train=4, test=2)
    image_folder(tmp_path / "new", classes=("cat", "dog", "eel"), train=4, test=2)
    data = Data(name="image_folder_classes", path=str(tmp_path / "old"), size=(16, 16))
    run(small(data=data, workdir=str(tmp_path / "first"), batch_size=2))
    config = dataclasses.replace(
        load("configs/finetune.py"),
        data=Data(name="image_folder_classes", path=str(tmp_path / "new")),
        pretrained=Pretrained(weights=str(tmp_path / "first")),
        workdir=str(tmp_path / "second"),
        mesh=Mesh(devices=1),
        batch_size=2,
        steps=1,
    )
    run(config)
    assert "head, which is of other classes and new" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "first")
    (tmp_path / "new" / "train" / "cat").rename(tmp_path / "new" / "train" / "zebra")
    (tmp_path / "new" / "val" / "cat").rename(tmp_path / "new" / "val" / "zebra")
    with pytest.raises(
        UserError, match=r"other classes.*\n  cat, dog, eel there\n  dog, eel, zebra"
    ):
        run(dataclasses.replace(config, steps=2))
    (tmp_path / "new" / "train" / "zebra").rename(tmp_path / "new" / "train" / "cat")
    (tmp_path / "new" / "val" / "zebra").rename(tmp_path / "new" / "val" / "cat")
    run(dataclasses.replace(config, steps=2))  # goes on, without the weights it began from
    record = sf.load(tmp_path / "second").record
    assert record.model == "resnet18" and record.options["width"] == 4
    assert record.preprocessing.input_size == (16, 16)
    assert record.class_names == ("cat", "dog", "eel") and record.step == 2


def test_clips_are_taken_as_the_weights_of_a_video_model_were_trained(tmp_path):
    model = sf.create_model("tsn_resnet50", width=4, depths=(1, 1), num_classes=3)
    about = dict(input_size=(4, 32, 32), sampling="uniform", stride=3)
    about = dataclasses.replace(sf.card("tsn_resnet50").preprocessing, **about)
    model.record = dataclasses.replace(model.record, preprocessing=about)
    sf.save(model, tmp_path / "tsn.safetensors")
    config = small(
        model=None, options={}, pretrained=Pretrained(weights=tmp_path / "tsn.safetensors")
    )
    data = adopted(config, lambda: None).data
    assert (data.frames, data.stride, data.sampling, data.size) == (4, 3, "uniform", (32, 32))
    given = dataclasses.replace(config, data=dataclasses.replace(config.data, frames=16))
    assert adopted(given, lambda: None).data.frames == 16


def test_without_a_model_and_weights_nothing_begins():
    with pytest.raises(UserError, match="--model is None; expected a name, or --pretrained"):
        adopted(check(small(model=None)), lambda: None)


def test_an_erased_rectangle_is_noise_and_the_rest_stays():
    pixels = np.full((2, 40, 60, 3), 7, np.uint8)
    found = erased(pixels, np.random.default_rng(0))
    changed = (found != pixels).any(-1)
    rows, columns = (np.flatnonzero(changed.any((0, axis))) for axis in (2, 1))
    assert changed[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.95
    assert 0.01 < changed.mean() < 0.35 and (pixels == 7).all()


@pytest.mark.parametrize(
    ("classes", "flip", "mirrored"),
    [
        (("turn left", "turn_right"), None, False),
        (("Leftwards", "up"), None, False),
        (("bright", "cleft"), None, None),
        (("left", "right"), True, True),
    ],
)
def test_images_of_classes_that_say_left_or_right_are_not_mirrored(
    classes, flip, mirrored, tmp_path, capsys
):
    image_folder(tmp_path, classes=classes, train=1, test=1)
    data = Data(name="image_folder_classes", path=str(tmp_path), size=(8, 8), flip=flip)
    source = open_source(data.name, "train", data)
    assert source.reader.augmentation.data.flip is mirrored
    assert ("no image is mirrored" in capsys.readouterr().out) is (mirrored is False)


def test_binary_cross_entropy_is_the_sum_over_the_classes_of_each_question():
    config = small(task_options=dict(loss="bce", label_smoothing=0.1))
    task = make_task(config, open_source("mnist5k", "train"))
    batch = {"image": np.zeros((2, 28, 28, 1), np.uint8), "label": np.array([3, 4])}
    logits = np.random.default_rng(0).standard_normal((2, 10)).astype(np.float32)
    loss, _ = task.loss(lambda x: jax.numpy.asarray(logits), batch, jax.random.key(0))
    target = 0.9 * np.eye(10)[batch["label"]] + 0.01
    chance = 1 / (1 + np.exp(-logits))
    wanted = -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).sum(-1).mean()
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
