"""Names and shapes of two-path layers are those of pkumivision/FFC for every choice of options."""

import functools
import itertools

import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.layers import FFC, ConvNormAct

RATIOS = (0, 0.25, 0.5, 1)
SIDES = list(itertools.product(RATIOS, RATIOS))


def batch_norm(name, features) -> dict:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (features,) for leaf in vectors} | {f"{name}.num_batches_tracked": ()}


def fourier_unit(name, inputs, outputs, groups) -> dict:
    conv = {f"{name}.conv_layer.weight": (2 * outputs, 2 * inputs // groups, 1, 1)}
    return conv | batch_norm(f"{name}.bn", 2 * outputs)


def spectral_transform(name, inputs, outputs, groups, lfu) -> dict:
    half = outputs // 2
    shapes = {
        f"{name}.conv1.0.weight": (half, inputs // groups, 1, 1),
        f"{name}.conv2.weight": (outputs, half // groups, 1, 1),
    }
    shapes |= batch_norm(f"{name}.conv1.1", half)
    for unit in ("fu", "lfu")[: 1 + lfu]:
        shapes |= fourier_unit(f"{name}.{unit}", half, half, groups)
    return shapes


def published_ffc(inputs, outputs, kernel, ratio_in, ratio_out, *, groups=1, bias=False, lfu=True):
    """Return the published names and shapes: a layer between two paths that both have channels."""
    sides_in = {"g": int(inputs * ratio_in)}
    sides_in["l"] = inputs - sides_in["g"]
    sides_out = {"g": int(outputs * ratio_out)}
    sides_out["l"] = outputs - sides_out["g"]
    shapes = {}
    for (a, i), (b, o) in itertools.product(sides_in.items(), sides_out.items()):
        if not (i and o):
            continue
        if a == b == "g":
            shapes |= spectral_transform("convg2g", i, o, max(1, groups // 2), lfu)
            continue
        shapes[f"conv{a}2{b}.weight"] = (o, i // groups, kernel, kernel)
        if bias:
            shapes[f"conv{a}2{b}.bias"] = (o,)
    return shapes


def published_ffc_bn_act(inputs, outputs, kernel, ratio_in, ratio_out, **options):
    layer = published_ffc(inputs, outputs, kernel, ratio_in, ratio_out, **options)
    shapes = {f"ffc.{name}": shape for name, shape in layer.items()}
    glob = int(outputs * ratio_out)
    shapes |= batch_norm("bn_l", outputs - glob) if ratio_out != 1 else {}
    return shapes | (batch_norm("bn_g", glob) if ratio_out != 0 else {})


def layer(inputs, outputs, kernel, ratio_in, ratio_out, *, norm, **options):
    """Return a layer without numbers."""
    options |= dict(ratio_in=ratio_in, ratio_out=ratio_out)
    options["feature_group_count"] = options.pop("groups", 1)
    make = functools.partial(ConvNormAct, layer=FFC) if norm else FFC
    return nnx.eval_shape(lambda: make(inputs, outputs, kernel, **options, rngs=nnx.Rngs(0)))


def filled(model, seed):
    """Give every array other numbers, so that none is mistaken for another."""
    rng = np.random.default_rng(seed)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    fill = lambda a: rng.uniform(0.5, 1, a.shape).astype(a.dtype)
    nnx.update(model, jax.tree.map(fill, state))
    return model


def shapes_of(model) -> dict:
    return {name: np.shape(array) for name, array in sf.save_torch(filled(model, 0)).items()}


def arrays(model) -> dict:
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in state}


def assert_round_trip(model, other):
    sf.load_torch(filled(other, 2), sf.save_torch(filled(model, 1)))
    pairs = zip(arrays(model).items(), arrays(other).values(), strict=True)
    for (name, ours), theirs in pairs:
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("bias, lfu", [(False, True), (True, False)], ids=["lfu", "bias"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("ratio_in", RATIOS)
def test_names_and_shapes_are_the_published_ones(ratio_in, groups, bias, lfu):
    for ratio_out in RATIOS:
        args, options = (32, 64, 3, ratio_in, ratio_out), dict(groups=groups, lfu=lfu)
        wanted = published_ffc_bn_act(*args, **options, bias=bias)
        model = layer(*args, **options, use_bias=bias, strides=2, norm=True)
        assert shapes_of(model) == wanted, ratio_out


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("ratio_in, ratio_out", SIDES)
def test_a_layer_without_normalisation_has_the_published_names(ratio_in, ratio_out, groups):
    args = (32, 64, 1, ratio_in, ratio_out)
    wanted = published_ffc(*args, groups=groups, bias=True)
    make = functools.partial(layer, *args, groups=groups, use_bias=True, norm=False)
    assert shapes_of(make()) == wanted
    assert_round_trip(make(), make())


@pytest.mark.parametrize("ratio_in, ratio_out", SIDES)
def test_a_layer_with_normalisation_loads_what_it_saves(ratio_in, ratio_out):
    make = functools.partial(layer, 32, 32, 1, ratio_in, ratio_out, norm=True)
    assert_round_trip(make(), make())


@pytest.mark.parametrize("dropped", ["local_to_global", "global_to_local"])
@pytest.mark.parametrize("ratio_in, ratio_out", SIDES)
def test_a_path_that_is_switched_off_has_no_names(ratio_in, ratio_out, dropped):
    if {(0, "local_to_global"): ratio_out, (1, "global_to_local"): 1 - ratio_out}.get(
        (ratio_in, dropped)
    ):
        return  # an output without an input is refused
    args = (32, 64, 1, ratio_in, ratio_out)
    path = dict(local_to_global="convl2g.", global_to_local="convg2l.")[dropped]
    wanted = published_ffc(*args, bias=True)
    wanted = {name: shape for name, shape in wanted.items() if not name.startswith(path)}
    make = functools.partial(layer, *args, use_bias=True, norm=False, **{dropped: False})
    assert shapes_of(make()) == wanted
    assert_round_trip(make(), make())


def test_the_biases_of_two_published_convolutions_add_up():
    model = layer(32, 64, 1, 0.5, 0.5, use_bias=True, norm=False)
    state = sf.save_torch(filled(model, 0))
    rng = np.random.default_rng(1)
    local, glob = rng.standard_normal((2, 32)).astype(np.float16)
    state |= {"convl2l.bias": local, "convg2l.bias": glob}
    sf.load_torch(model, state)
    wanted = np.float32(local) + np.float32(glob)
    np.testing.assert_array_equal(model.to_local.bias[...], wanted)


@pytest.mark.parametrize(
    "name, ratio", [*(("ffc_resnet18", r) for r in (0, 0.25, 1)), ("ffc_resnet50", 1)]
)
def test_networks_of_every_ratio_have_the_published_gates(name, ratio):
    options = dict(ratio=ratio, se=True, lfu=False, width=32, depths=(1, 1), num_classes=3)
    model, other = (sf.abstract_model(name, **options) for _ in range(2))
    state = sf.save_torch(filled(model, 0), family="FFC")
    features = (128, 256) if name.endswith("50") else (32, 64)
    for stage, width in enumerate(features, start=1):
        gate = f"layer{stage}.0.se_block."
        found = {n.removeprefix(gate): a.shape for n, a in state.items() if n.startswith(gate)}
        glob = int(width * ratio) if stage < 2 else 0
        wanted = {"conv1.weight": (width // 16, width, 1, 1), "conv1.bias": (width // 16,)}
        for path, outputs in ("a2l", width - glob), ("a2g", glob):
            if outputs:
                weight = {f"conv_{path}.weight": (outputs, width // 16, 1, 1)}
                wanted |= weight | {f"conv_{path}.bias": (outputs,)}
        assert found == wanted
    assert_round_trip(model, other)
