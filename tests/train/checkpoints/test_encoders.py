"""The encoder of a perceptual loss, and a run's own copy of it."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from train.checkpoints.encoders import COPY
from train.config import Config, Data
from train.errors import UserError
from train.tasks import make_task, open_data

OPTIONS = dict(width=8, depths=(1,))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "classifier.pth"
    sf.save(sf.create_model("resnet18", num_classes=5, **OPTIONS, rngs=nnx.Rngs(3)), path)
    return path


@pytest.fixture
def task(weights):
    encoder = dict(model="resnet18", weights=str(weights), options=OPTIONS)
    options = {f"encoder_{name}": value for name, value in encoder.items()} | {"perceptual": 3.0}
    config = Config(task="inpainting", data=Data(name="textures", size=(16, 16)))
    config = dataclasses.replace(config, task_options=options)
    return make_task(config, open_data(config, "train"))


def maps(task):
    image = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    return [np.asarray(m) for m in task._encoded(image)]


def test_a_run_goes_on_with_the_same_encoder_after_its_file_is_gone(task, weights, tmp_path):
    before = maps(task.prepared(tmp_path, begins=True))
    weights.unlink()
    after = maps(task.prepared(tmp_path, begins=False))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(before) > 1 and all(m.std() > 0 for m in before)


def test_evaluation_needs_no_encoder(task, weights):
    weights.unlink()
    assert task.maps is None
    figures = task.metrics({"psnr": 2.0, "ssim": 1.0, "l1": 4.0, "count": 2.0})
    assert figures == {"psnr": 1.0, "ssim": 0.5, "l1": 2.0}


def test_an_encoder_that_is_missing_at_the_start_is_named(task, weights, tmp_path):
    weights.unlink()
    with pytest.raises(UserError, match=r"encoder weights .*classifier\.pth.*No such file"):
        task.prepared(tmp_path, begins=True)


def test_a_run_without_a_copy_reads_the_file_again_and_keeps_one(task, weights, tmp_path, capsys):
    task.prepared(tmp_path, begins=False)
    assert "reading encoder weights" in capsys.readouterr().out
    weights.unlink()
    task.prepared(tmp_path, begins=False)


def test_a_damaged_copy_is_refused(task, tmp_path):
    task.prepared(tmp_path, begins=True)
    path = tmp_path / "encoder" / COPY
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: the file weights/encoder"):
        task.prepared(tmp_path, begins=False)
    (tmp_path / "encoder" / "files.json").unlink()
    with pytest.raises(UserError, match=r"files\.json is missing"):
        task.prepared(tmp_path, begins=False)


def test_the_copy_of_another_beginning_is_put_aside_and_an_equal_one_kept(task, weights, tmp_path):
    task.prepared(tmp_path, begins=True)
    task.prepared(tmp_path, begins=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classifier.pth", "encoder"]
    before = (tmp_path / "encoder" / COPY).read_bytes()
    other = sf.create_model("resnet18", num_classes=5, **OPTIONS, rngs=nnx.Rngs(4))
    sf.save(other, weights, overwrite=True)
    task.prepared(tmp_path, begins=True)
    assert (tmp_path / "encoder.before_1" / COPY).read_bytes() == before
    assert (tmp_path / "encoder" / COPY).read_bytes() != before


def test_a_loss_without_perceptual_weight_reads_nothing(task, weights, tmp_path):
    weights.unlink()
    task = dataclasses.replace(task, options=dataclasses.replace(task.options, perceptual=0.0))
    assert task.prepared(tmp_path, begins=True) is task
