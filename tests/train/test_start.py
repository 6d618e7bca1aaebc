import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from train.config import Config, Start
from train.data.arrays import Arrays
from train.errors import UserError
from train.start import load_start
from train.state import make_model
from train.tasks import make_task

SMALL = {"width": 8, "depths": (1, 1), "in_features": 1}


def source(shape, classes=4):
    images = np.zeros((8, *shape), np.uint8)
    return Arrays("zeros", images, np.zeros(8, np.int64), classes, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a classifier of ten classes, under the published names."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    model = sf.create_model("resnet18", num_classes=10, **SMALL, rngs=nnx.Rngs(5))
    sf.save(model, path)
    return str(path), model


def begun(config, shape=(32, 32, 1)):
    model = make_model(config, make_task(config, source(shape)))
    before = jax.tree.map(np.asarray, model.stem.conv.kernel[...])
    load_start(config.start, model)
    return model, before


def config(path, model="resnet18", **start):
    options = {"width": 8, "depths": (1, 1)}
    options |= {"input_size": (4, 32, 32)} if model != "resnet18" else {}
    return Config(model=model, options=options, start=Start(weights=path, **start))


def test_a_run_begins_from_weights_without_their_head(weights, capsys):
    path, given = weights
    model, before = begun(config(path, skip=("head",)))
    np.testing.assert_array_equal(model.stem.conv.kernel[...], given.stem.conv.kernel[...])
    assert not np.array_equal(before, model.stem.conv.kernel[...])
    assert "begins from" in capsys.readouterr().out


def test_weights_of_images_are_inflated(weights):
    path, given = weights
    options = SMALL | {"num_classes": None}
    start = dict(inflate="resnet18", inflate_options=options, skip=("head",))
    model, _ = begun(config(path, "i3d_resnet18", **start), (4, 32, 32, 1))
    inflated = np.asarray(model.stem.conv.kernel[...])
    np.testing.assert_allclose(inflated.sum(0), given.stem.conv.kernel[...], rtol=1e-5, atol=1e-7)


def test_without_weights_nothing_changes():
    model, before = begun(Config(model="resnet18", options={"width": 8, "depths": (1, 1)}))
    np.testing.assert_array_equal(before, model.stem.conv.kernel[...])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(path="none.pth"), "none.pth"),
        (dict(), "head"),
        (dict(skip=("hed",)), "hed"),
        (dict(inflate="resnet19"), "no model 'resnet19'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, changes, message):
    changes = {"path": weights[0]} | changes
    with pytest.raises(UserError, match=message):
        begun(config(changes.pop("path"), **changes))
