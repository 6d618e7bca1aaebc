import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.orbax import write_orbax
from spectral_flax.checkpoints.safetensors import write_safetensors
from spectral_flax.checkpoints.torch.writer import write_torch
from spectral_flax.checkpoints.weights import Weights, variables
from spectral_flax.models.inpainting import PatchDiscriminator
from train.checkpoints.pretrained import load_pretrained
from train.checkpoints.state import make_model
from train.config import Config, Pretrained
from train.data.arrays import Arrays
from train.errors import UserError
from train.tasks import make_task
from train.tasks.inpainting.task import Adversaries, Inpainting

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
    task = make_task(config, source(shape))
    model = make_model(config, task)
    before = jax.tree.map(np.asarray, model.stem.conv.kernel[...])
    load_pretrained(config.pretrained, model, task)
    return model, before


def config(path, model="resnet18", **start):
    options = {"width": 8, "depths": (1, 1)}
    options |= {"input_size": (4, 32, 32)} if model != "resnet18" else {}
    return Config(model=model, options=options, pretrained=Pretrained(weights=str(path), **start))


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


def test_a_head_of_other_classes_is_new_without_being_named(weights, capsys):
    path, given = weights
    model, _ = begun(config(path))
    np.testing.assert_array_equal(model.stem.conv.kernel[...], given.stem.conv.kernel[...])
    assert model.head.kernel.shape[-1] == 4
    assert "but those of head, which is of other classes and new" in capsys.readouterr().out


def test_a_damaged_head_is_no_head_of_other_classes(tmp_path):
    given = sf.create_model("resnet18", num_classes=4, **SMALL, rngs=nnx.Rngs(5))
    given.head.bias[...] = given.head.bias[...].at[0].set(np.nan)
    sf.save(given, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"head\.bias"):
        begun(config(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(("names", "kept"), [("abcd", True), ("abce", False), ("", True)])
def test_as_many_classes_of_other_names_have_a_new_head(names, kept, tmp_path):
    given = sf.create_model("resnet18", num_classes=4, **SMALL, rngs=nnx.Rngs(5))
    given.record = dataclasses.replace(given.record, class_names=tuple("abcd"))
    sf.save(given, tmp_path / "w.safetensors")
    settings = config(tmp_path / "w.safetensors")
    task = make_task(settings, source((32, 32, 1)))
    model = make_model(settings, task)
    load_pretrained(settings.pretrained, model, task, tuple(names))
    assert np.array_equal(model.head.kernel[...], given.head.kernel[...]) is kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(path="none.pth"), "none.pth"),
        (dict(skip=("hed",)), "hed"),
        (dict(inflate="resnet19"), "no model 'resnet19'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, changes, message):
    changes = {"path": weights[0]} | changes
    with pytest.raises(UserError, match=message):
        begun(config(changes.pop("path"), **changes))


def adversaries(seed=0):
    generator = sf.create_model("lama", width=8, blocks=1, rngs=nnx.Rngs(seed))
    judge = PatchDiscriminator(width=4, layers=1, rngs=nnx.Rngs(seed + 1))
    return Adversaries(generator, judge)


@pytest.fixture(scope="module")
def rivals():
    """Adversaries as they shall be, and others to be filled."""
    return adversaries(7), adversaries()


def fill(start, model):
    load_pretrained(start, model, Inpainting(image_shape=(32, 32, 3)))
    return variables(model)


def as_published(model):
    """Return the entries of a training file: both parts, and what else stands beside them."""
    return sf.save_torch(model) | {"loss_resnet_pl.impl.conv1.weight": np.ones((2, 2))}


def files_of(kind, model, folder):
    """Write a model, or its generator alone, in one of the ways it is published or kept."""
    generator, names = model.generator, variables(model)
    match kind:
        case "training.ckpt":
            write_torch(folder / kind, as_published(model))
        case "generator.pth":
            sf.save(generator, folder / kind)
        case "generator.safetensors":
            sf.save(generator, folder / kind, name="lama", options=dict(width=8, blocks=1))
        case "part of training.ckpt":
            parts = {n: a for n, a in as_published(model).items() if n.startswith("generator.")}
            write_torch(folder / kind, parts)
        case "both.safetensors":
            write_safetensors(folder / kind, Weights(names))
    return str(folder / kind)


@pytest.mark.parametrize("kind", ["training.ckpt", "both.safetensors"])
def test_both_adversaries_begin_from_a_file_of_both(kind, rivals, tmp_path, capsys):
    given, model = rivals
    found = fill(Pretrained(weights=files_of(kind, given, tmp_path)), model)
    for name, array in variables(given).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert "all arrays\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "kind", ["generator.pth", "generator.safetensors", "part of training.ckpt"]
)
def test_a_generator_alone_leaves_its_discriminator_as_it_is(kind, rivals, tmp_path, capsys):
    given, model = rivals[0], adversaries()
    before = variables(model)
    found = fill(Pretrained(weights=files_of(kind, given, tmp_path)), model)
    for name, array in variables(given).items():
        wanted = array if name.startswith("generator.") else before[name]
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)
    assert "all arrays but those of discriminator" in capsys.readouterr().out


def test_of_several_sets_of_weights_one_is_named(weights, tmp_path):
    _, given = weights
    state = sf.save_torch(given)
    write_safetensors(
        tmp_path / "x.safetensors",
        Weights({f"{p}.{n}": a for p in ("G", "D") for n, a in state.items()}, "torch"),
    )
    start = config(tmp_path / "x.safetensors", skip="head", entry="D")
    model, _ = begun(start)
    np.testing.assert_array_equal(model.stem.conv.kernel[...], given.stem.conv.kernel[...])
    with pytest.raises(UserError, match="choose one by entry=: D, G"):
        begun(config(tmp_path / "x.safetensors", skip="head"))


def test_the_newest_checkpoint_of_a_run_is_taken(weights, tmp_path):
    _, given = weights
    for step, factor in ((9, 0), (10, 1)):
        arrays = {name: factor * array for name, array in variables(given).items()}
        write_orbax(tmp_path / "checkpoints" / str(step), Weights(arrays))
    (tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp-0").mkdir()
    for place in (tmp_path, tmp_path / "checkpoints"):
        model, _ = begun(config(place, skip=("head",)))
        np.testing.assert_array_equal(model.stem.conv.kernel[...], given.stem.conv.kernel[...])
