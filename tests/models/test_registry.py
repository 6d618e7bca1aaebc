import pkgutil
import sys

import jax
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.models.classifier import resnet_classifier

SMALL = dict(width=16, depths=(1, 1, 1, 1), num_classes=4)


def test_names_are_sorted_and_match_patterns():
    names = sf.list_models()
    assert names == sorted(names)
    assert {"resnet18", "ffc_resnet50", "ffc_resnext101_32x8d"} <= set(names)
    assert all(name.startswith("ffc_resnet") for name in sf.list_models("ffc_resnet*"))
    assert sf.list_models("no such model") == []


@pytest.mark.parametrize(
    ("filters", "some", "other"),
    [
        (dict(family="lama"), ["lama", "lama_big"], "resnet18"),
        (dict(task="pose", block="nl"), ["pose_resnet50_nl"], "resnet50_nl"),
        (dict(rank=3, ffc=True, block="bat3d"), ["ffc_c2d_resnet50_bat3d"], "c2d_resnet50_bat3d"),
        (dict(published=True, task="segmentation"), ["unet_star_nl"], "unet"),
        (dict(pattern="*50*", ffc=False, rank=2), ["resnet50"], "ffc_resnet50"),
    ],
    ids=str,
)
def test_filters_leave_what_fits_them_all(filters, some, other):
    names = sf.list_models(**filters)
    assert set(some) <= set(names) and other not in names and other in sf.list_models()


@pytest.mark.parametrize(
    "filters",
    [
        dict(task="poses"),
        dict(block="nll"),
        dict(family="resnet50"),
        dict(rank=4),
        dict(published="yes"),
    ],
)
def test_a_filter_that_nothing_has_names_the_known_ones(filters):
    ((name, value),) = filters.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}; expected one of "):
        sf.list_models(**filters)


def test_a_name_leads_to_its_function_and_shows_its_options():
    model = sf.models.get_model("c2d_resnet50_bat")
    assert model.function is resnet_classifier
    assert model.options["num_classes"].default == 400
    assert not {"block", "backbone", "rank", "ratio", "rngs"} & set(model.options)
    assert {"dtype", "param_dtype", "precision"} <= set(model.options)


@pytest.mark.parametrize("package", [sf.models, sf.checkpoints.names], ids=str)
def test_every_module_of_a_family_is_imported(package):
    found = {
        module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    }
    assert found <= set(sys.modules)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sf.create_model("resnet5O"), ValueError, "no model 'resnet5O'; closest: resnet50"),
        (lambda: sf.create_model("resnet18", witdh=8), TypeError, "'witdh'; closest: width"),
        (lambda: sf.card("resnet"), ValueError, "no model 'resnet'"),
        (
            lambda: sf.create_model("ffc_resnet18", ratio=2),
            ValueError,
            r"ratio=2 lies outside \[0, 1\]",
        ),
        (lambda: sf.create_model("resnet18", stem="big"), ValueError, "stem='big'; expected"),
        (lambda: sf.create_model("resnet18", num_classes=0), ValueError, "num_classes=0"),
    ],
)
def test_wrong_names_and_options_name_their_neighbour(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_name_is_registered_once():
    def resnet18(*, rngs):
        return None

    with pytest.raises(ValueError, match="'resnet18' is registered already"):
        sf.register_model()(resnet18)


def test_an_abstract_model_holds_no_arrays():
    leaves = jax.tree.leaves(nnx.state(sf.abstract_model("ffc_resnet18", ratio=0.5, **SMALL)))
    assert leaves and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


@pytest.mark.parametrize("name", ["bert", "resnet50_xyz", "", "x" * 99])
def test_an_unknown_model_names_a_few_and_how_to_list_all(name):
    with pytest.raises(ValueError, match=f"no model '{name}'; closest: ") as caught:
        sf.create_model(name)
    message = str(caught.value)
    named = message.split("; ")[1].removeprefix("closest: ").split(", ")
    assert 1 <= len(named) <= 5 and set(named) <= set(sf.list_models())
    assert "list_models()" in message and "spectral-flax list" in message
    assert len(message) < 300 + len(name)


@pytest.mark.parametrize("name", [None, 3, ["resnet18"]])
def test_the_name_of_a_model_is_text(name):
    with pytest.raises(TypeError, match="expected the name of a model"):
        sf.create_model(name)
