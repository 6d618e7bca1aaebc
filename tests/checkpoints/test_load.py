import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.checkpoints.names import Rule, register_rules
from spectral_flax.checkpoints.weights import assign
from spectral_flax.layers import FFC, FourierUnit, SpectralTransform
from spectral_flax.layers.blocks import block


def small(name="ffc_resnet50", seed=0, **options):
    options = dict(depths=(1, 1, 1, 1), width=16, num_classes=5) | options
    if name.startswith("ffc"):
        options = dict(ratio=0.5) | options
    return sf.create_model(name, rngs=nnx.Rngs(seed), **options)


def arrays(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


MODELS = [
    ("resnet18", {}),
    ("resnet50", {}),
    ("resnext50_32x4d", dict(width=32)),
    ("ffc_resnet18", {}),
    ("ffc_resnet50", dict(lfu=False, se=True)),
    ("ffc_resnext50_32x4d", dict(width=64, local_to_global=True, global_to_local=False)),
]


@pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
def test_a_saved_state_dict_loads_into_the_same_numbers(name, options):
    model, other = small(name, **options), small(name, seed=1, **options)
    report = sf.load_torch(other, sf.save_torch(model))
    for ours, theirs in zip(arrays(model), arrays(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert report.loaded and not report.ignored and not report.skipped


def test_prefixes_of_data_parallel_models_are_understood():
    model, other = small("resnet18"), small("resnet18", seed=1)
    sf.load_torch(other, {f"module.{k}": v for k, v in sf.save_torch(model).items()})
    for ours, theirs in zip(arrays(model), arrays(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_all_faults_are_reported_at_once_and_nothing_changes():
    model = small()
    state = sf.save_torch(small(seed=1))
    before = arrays(model)
    del state["layer2.0.conv2.ffc.convl2g.weight"], state["bn1.running_mean"]
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["extra.weight"] = np.zeros((2, 3))
    with pytest.raises(sf.CheckpointError) as error:
        sf.load_torch(model, state)
    for line in (
        "missing: layer2.0.conv2.ffc.convl2g.weight [16, 16, 3, 3]",
        "missing: bn1.running_mean [16]",
        "unexpected: extra.weight [2, 3]",
        "shape: conv1.weight is [16, 1, 7, 7]; the model needs [16, 3, 7, 7]",
    ):
        assert line in str(error.value)
    for ours, theirs in zip(before, arrays(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_head_of_another_size_is_left_alone_only_when_asked():
    model, state = small(num_classes=3), sf.save_torch(small(seed=1))
    with pytest.raises(
        sf.CheckpointError,
        match=r"5 classes, the model 3.*skip=\('head',\)(.|\n)*"
        r"fc.weight is \[5, 512\]; the model needs \[3, 512\]",
    ):
        sf.load_torch(model, state)
    head = np.asarray(model.head.kernel[...])
    report = sf.load_torch(model, state, skip=("head",))
    np.testing.assert_array_equal(model.head.kernel[...], head)
    assert report.skipped == ("head.bias", "head.kernel")
    np.testing.assert_array_equal(
        model.stem.conv.kernel[...][0, 0, 0], state["conv1.weight"][:, 0, 0, 0]
    )
    with pytest.raises(ValueError, match="skip='heads' names no part of ResNet"):
        sf.load_torch(model, state, skip=("heads",))


def test_sixteen_bit_files_fill_float32_parameters():
    model, state = small("resnet18"), sf.save_torch(small("resnet18", seed=1))
    sf.load_torch(model, {k: np.asarray(v, np.float16) for k, v in state.items()})
    assert model.head.kernel.dtype == np.float32
    np.testing.assert_allclose(model.head.kernel[...], state["fc.weight"].T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        lambda r: FourierUnit(8, 16, feature_group_count=2, rngs=r),
        lambda r: SpectralTransform(16, 16, rngs=r),
        lambda r: FFC(32, 32, feature_group_count=2, rngs=r),
    ],
)
def test_single_layers_round_trip(layer):
    one, two = layer(nnx.Rngs(0)), layer(nnx.Rngs(1))
    sf.load_torch(two, sf.save_torch(one))
    for ours, theirs in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("family", ["SRL", "BAT video", "timm"])
def test_concatenation_scores_pairs_by_a_flat_convolution_in_videos_too(rank, family):
    make = lambda seed: block("nl", 8, rank=rank, mode="concatenation", rngs=nnx.Rngs(seed))
    one, two = make(0), make(1)
    state = sf.save_torch(one, family=family)
    assert state["concat_project.0.weight"].shape == (1, 8, 1, 1)
    np.testing.assert_array_equal(
        state["concat_project.0.weight"].ravel(), np.ravel(one.score.kernel[...])
    )
    sf.load_torch(two, state)
    for ours, theirs in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Unpublished(nnx.Module):
    """A layer that has published names between others, and arrays of its own."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.ffc = sf.layers.FFC(8, 8, lfu=False, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)])
        self.gate = nnx.Param(rngs.normal(()))


def test_a_module_without_published_names_keeps_its_own():
    one, two = Unpublished(1), Unpublished(2)
    state = sf.save_torch(one)
    assert {"gate", "layers.0.weight", "layers.1.running_mean", "ffc.convl2g.weight"} <= set(state)
    assert state["layers.0.weight"].shape == (4, 8)
    assert sf.load_torch(two, state).family == "own"
    for ours, theirs in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(sf.CheckpointError, match=r"missing: gate"):
        sf.load_torch(two, {name: a for name, a in state.items() if name != "gate"})


class Plain(nnx.Module):
    """One parameter of any dtype, called ``w`` in PyTorch too."""

    def __init__(self, dtype=np.float32):
        self.w = nnx.Param(np.zeros(3, dtype))


register_rules(Plain, [Rule("w", "w")])
WRONG = [
    (np.float32, np.array([1 + 2j, 0, 0]), "is complex128; the model's numbers are real"),
    (np.float32, np.array([1, 0, 0], np.complex64), "is complex64"),
    (np.float32, np.array([1e300, 0, 0]), "1e\\+300, which is out of the range of float32"),
    (jnp.bfloat16, np.array([1e39, 0, 0]), "1e\\+39, which is out of the range of bfloat16"),
    (jnp.bfloat16, np.float32([3.4e38, 0, 0]), "out of the range of bfloat16"),
    (np.float16, np.float32([7e4, 0, 0]), "70000.0, which is out of the range of float16"),
    (np.float16, np.array([70_000, 0, 0]), "70000, which is out of the range of float16"),
    (np.int32, np.array([2**40, 0, 0]), "holds numbers that int32 cannot hold"),
    (np.int32, np.array([0.5, 0, 0]), "holds numbers that int32 cannot hold"),
    (np.uint8, np.array([-1, 0, 0]), "holds numbers that uint8 cannot hold"),
    (np.float32, np.array(["a", "b", "c"]), "holds no numbers but <U1"),
    (np.float32, np.array([None, 1, 2]), "holds no numbers but object"),
    (np.float32, np.float32([np.nan, 0, 0]), r"NaN or infinity \(1 of 3 numbers\)"),
    (np.float16, np.float32([np.inf, -np.inf, 0]), r"NaN or infinity \(2 of 3 numbers\)"),
]


def ways_in():
    """Return functions that fill a model with an array for its parameter, and may be refused."""

    def image_of(value):
        image = Plain()
        image.w = nnx.Param(value)
        return image

    return {
        "load_torch": lambda model, value, **how: sf.load_torch(model, {"w": value}, **how),
        "assign": lambda model, value, **how: assign(model, {"w": value}, **how),
        "inflate": lambda model, value, **how: sf.inflate(image_of(value), model, **how),
    }


@pytest.mark.parametrize("way", ways_in())
@pytest.mark.parametrize(("dtype", "value", "told"), WRONG)
def test_values_that_the_dtype_cannot_hold_are_refused_by_name(way, dtype, value, told):
    model = Plain(dtype)
    with pytest.raises(sf.CheckpointError, match=f"value: w .*{told}"):
        ways_in()[way](model, value)
    np.testing.assert_array_equal(model.w[...], np.zeros(3))


@pytest.mark.parametrize("way", ways_in())
def test_values_that_are_not_finite_are_taken_where_allowed(way):
    model = Plain()
    ways_in()[way](model, np.float32([np.nan, np.inf, 1]), allow_non_finite=True)
    np.testing.assert_array_equal(model.w[...], [np.nan, np.inf, 1])


@pytest.mark.parametrize("way", ways_in())
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.float32, np.array([1e-300, 0, 2**53])),
        (np.float32, np.array([True, False, True])),
        (np.float32, np.array([1, -2, 3], np.int8)),
        (jnp.bfloat16, np.float32([1e38, 1 / 3, -2])),
        (np.complex64, np.array([1 + 2j, 0, 0])),
        (np.int32, np.array([1.0, 2.0, 3.0])),
    ],
    ids=str,
)
def test_values_within_the_range_of_the_dtype_are_rounded_to_it(way, dtype, value):
    model = Plain(dtype)
    ways_in()[way](model, value)
    assert model.w.dtype == dtype
    np.testing.assert_array_equal(np.asarray(model.w[...]), value.astype(dtype))


def test_arrays_that_are_skipped_may_hold_anything():
    model = Plain()
    sf.load_torch(model, {"w": np.full(3, np.nan)}, skip="w")
    np.testing.assert_array_equal(model.w[...], np.zeros(3))


def tiny(**options):
    return small("resnet18", **(dict(depths=(1, 1), width=8) | options))


def loads(file, skip=(), **how):
    """Return what is reported of a small ResNet's arrays that come out of ``file(its state)``."""
    model, other = tiny(), tiny(seed=1)
    report = sf.load_torch(other, file(sf.save_torch(model)), skip=skip, **how)
    for ours, theirs in zip(arrays(model), arrays(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return report


def test_a_state_dict_of_an_averaged_model_is_read():
    averaged = lambda state: {f"module.{n}": a for n, a in state.items()} | {"n_averaged": 7}
    assert not loads(averaged).ignored


def test_what_stands_beside_the_model_is_left_and_reported():
    beside = {"criterion.weight": np.ones(3)}
    report = loads(lambda state: {f"model.{n}": a for n, a in state.items()} | beside)
    assert report.ignored == ("criterion.weight",)


def test_a_backbone_and_a_head_kept_apart_are_joined():
    where = lambda name: f"head.{name}" if name.startswith("fc.") else f"backbone.{name}"
    assert not loads(lambda state: {where(n): a for n, a in state.items()}).ignored


def test_one_of_several_sets_of_weights_is_chosen_by_its_entry():
    both = lambda state: {"G": state, "D": {n: 2 * a for n, a in state.items()}}
    loads(both, entry="G")
    loads(lambda state: {"state_dict": both(state)}, entry="state_dict.G")
    with pytest.raises(ValueError, match="choose one by entry=: 'G', 'D'"):
        loads(both)


def test_lists_and_arrays_of_jax_are_arrays_too():
    loads(lambda state: {n: jnp.asarray(a) for n, a in state.items()})
    loads(lambda state: state | {"fc.bias": state["fc.bias"].tolist()})


@pytest.mark.parametrize("skip", ["head", ("head",), ["head"], "head.*", "h*d", "fc"])
def test_a_part_to_skip_is_a_name_or_a_glob_and_what_is_below(skip):
    model, state = tiny(num_classes=3), sf.save_torch(tiny())
    assert sf.load_torch(model, state, skip=skip).skipped == ("head.bias", "head.kernel")


@pytest.mark.parametrize("skip", [0, None, b"head", ["head", 1]])
def test_parts_to_skip_are_given_as_text(skip):
    with pytest.raises(TypeError, match=r"skip=.*; expected the name of a part"):
        sf.load_torch(tiny(), sf.save_torch(tiny()), skip=skip)


@pytest.mark.parametrize("skip", ["hea", "stage", "head.kern", "fc.", ""])
def test_the_beginning_of_a_name_is_no_part(skip):
    with pytest.raises(ValueError, match=rf"skip={skip!r} names no part of ResNet; its parts are"):
        sf.load_torch(tiny(), sf.save_torch(tiny()), skip=skip)


def test_a_misfit_of_hundreds_of_names_is_told_in_a_few_lines():
    model = tiny()
    with pytest.raises(sf.CheckpointError) as caught:
        sf.load_torch(model, {f"other\n.{i}" + "x" * 500: np.ones(i) for i in range(300)})
    lines = str(caught.value).splitlines()
    assert len(lines) < 20 and max(map(len, lines)) < 1000
    missing = [fault for fault in caught.value.faults if fault.startswith("missing: ")]
    assert f"missing: {len(missing) - 5} more" in str(caught.value)
    assert "unexpected: 295 more" in str(caught.value)
    assert "the file's names are other\\n.0xxx" in str(caught.value)
    assert len(caught.value.faults) == len(missing) + 300


@pytest.mark.parametrize("value", [{3: np.ones(2)}, {("a",): np.ones(2)}], ids=str)
def test_names_are_text(value):
    with pytest.raises(ValueError, match="expected names as text"):
        sf.load_torch(Plain(), value)
