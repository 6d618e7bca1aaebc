# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from spectral_flax.analysis.profile import Cost, profile
from spectral_flax.analysis.published import TABLES, agrees, recount
from spectral_flax.layers.conv import conv
from spectral_flax.layers.ffc import FourierUnit
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.models.registry import MODELS, abstract_model


class Apply(nnx.Module):
    """A module of one function of its weights ``w`` and the input."""

    def __init__(self, function, *shape):
        self.function, self.w = function, nnx.Param(jnp.ones(shape))

    def __call__(self, x):
        return self.function(self.w[...], x)


def count(function, x_shape, *w_shape) -> Cost:
    return profile(Apply(function, *w_shape), x_shape).total


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_costs_its_kernel_at_every_output(kernel, strides, groups):
    layer = conv(
        8, 16, kernel, strides=strides, feature_group_count=groups, use_bias=True, rngs=nnx.Rngs(0)
    )
    total = profile(layer, (2, 9, 7, 8)).total
    outputs = 2 * math.ceil(9 / strides) * math.ceil(7 / strides) * 16
    assert total.weights == outputs * kernel**2 * 8 // groups
    assert total.parameters == kernel**2 * 8 * 16 // groups + 16
    assert total.activations == 4 * outputs and total.attention == total.transforms == 0


def test_a_transposed_convolution_costs_its_kernel_at_every_input():
    shape = dict(kernel_size=(4, 4), strides=(2, 2), padding="SAME")
    layer = nnx.eval_shape(lambda: nnx.ConvTranspose(8, 16, **shape, rngs=nnx.Rngs(0)))
    assert profile(layer, (1, 5, 6, 8)).total.weights == 5 * 6 * 8 * 16 * 4 * 4


def test_products_of_activations_are_kept_apart_from_products_with_weights():
    both = count(lambda w, x: (x @ w) @ x.mT, (3, 5, 4), 4, 4)
    assert both.weights == 3 * 5 * 4 * 4 and both.attention == 3 * 5 * 5 * 4


def test_work_on_weights_alone_is_not_counted():
    assert count(lambda w, x: x * (w @ w).sum(), (3, 4), 4, 4).multiply_adds == 0


@pytest.mark.parametrize("kind", ["rfft", "irfft", "fft"])
def test_a_fourier_transform_costs_n_log_n(kind):
    x, points = (2, 3, 8, 16), 8 * 16
    functions = {
        "rfft": lambda w, x: jnp.abs(lax.fft(x, "rfft", (8, 16))),
        "irfft": lambda w, x: lax.fft(lax.complex(x[..., :9], x[..., :9]), "irfft", (8, 16)),
        "fft": lambda w, x: jnp.abs(lax.fft(lax.complex(x, x), "fft", (8, 16))),
    }
    numbers = 2 if kind == "fft" else 1
    assert count(functions[kind], x, 1).transforms == numbers * 6 * points * math.log2(points)


def scanned(w, x):
    return lax.scan(lambda c, _: (c @ w, None), x, length=7)[0]


def carried(w, x):  # the carry depends on the input from the second round on
    return lax.scan(lambda c, y: (c @ w + y, None), jnp.zeros_like(x), jnp.stack([x] * 7))[0]


@jax.custom_jvp
def forward(x, w):
    return x @ w


@jax.custom_vjp
def backward(x, w):
    return x @ w


forward.defjvps(lambda t, *_: t, None)
backward.defvjp(lambda x, w: (x @ w, None), lambda _, t: (t, None))

TRANSFORMED = {
    "jit": lambda w, x: jax.jit(jnp.matmul)(x, w),
    "checkpoint": lambda w, x: jax.checkpoint(jnp.matmul)(x, w),
    "vmap": lambda w, x: jax.vmap(jnp.matmul, (0, None))(x, w),
    "cond": lambda w, x: lax.cond(x.sum() > 0, lambda: x @ w, lambda: x),
    "custom_jvp": lambda w, x: forward(x, w),
    "custom_vjp": lambda w, x: backward(x, w),
    "while": lambda w, x: lax.while_loop(lambda c: c.sum() < 0, lambda c: c @ w, x),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformed_functions_are_looked_into(name):
    assert count(TRANSFORMED[name], (5, 4), 4, 4).weights == 5 * 4 * 4


@pytest.mark.parametrize("function", [scanned, carried])
def test_a_loop_costs_its_body_as_often_as_it_runs(function):
    assert count(function, (5, 4), 4, 4).weights == 7 * 5 * 4 * 4


def test_what_the_backward_pass_recomputes_is_not_kept():
    def twice(w, x):
        return (x @ w) @ w

    assert count(twice, (5, 4), 4, 4).activations == 2 * 5 * 4 * 4
    assert count(lambda w, x: jax.checkpoint(twice)(w, x), (5, 4), 4, 4).activations == 5 * 4 * 4


def test_costs_belong_to_the_module_whose_call_they_are():
    model = nnx.Sequential(*(ConvNormAct(4, 4, 3, rngs=nnx.Rngs(0)) for _ in range(3)))
    layers = profile(model, (1, 5, 5, 4)).layers
    assert list(layers) == [f"layers.{i}.{part}" for i in range(3) for part in ("conv", "norm")]
    assert {layers[f"layers.{i}.conv"].weights for i in range(3)} == {25 * 9 * 16}


def test_layers_sum_to_the_total_at_every_depth():
    counted = profile(abstract_model("resnet18"), (1, 64, 64, 3))
    for depth in (0, 1, 2, 9):
        assert sum(counted.grouped(depth).values(), Cost()) == counted.total
    assert list(counted.grouped(1)) == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]


@pytest.mark.parametrize("implementation", ["fft", "matmul"])
def test_a_fourier_unit_costs_its_transforms_and_its_convolution(implementation):
    unit = FourierUnit(6, 6, rngs=nnx.Rngs(0), implementation=implementation)
    total = profile(unit, (1, 8, 8, 6)).total
    assert total.parameters == 12 * 12 + 2 * 12
    convolution = 8 * 5 * 12 * 12
    if implementation == "fft":
        assert total.transforms == 2 * 64 * math.log2(64) * 6 and total.weights == convolution
    else:
        assert total.transforms == 0 and total.weights > convolution


def test_the_model_is_left_as_it_was():
    model = ConvNormAct(3, 4, 3, rngs=nnx.Rngs(0))
    before = nnx.graphdef(model), type(model), type(model.conv)
    profile(model, (1, 8, 8, 3))
    assert (nnx.graphdef(model), type(model), type(model.conv)) == before


def test_another_method_can_be_profiled():
    model = abstract_model("resnet18")
    without = profile(model, (1, 64, 64, 3), call=lambda m, x: m.features(x)["stage1"])
    assert "head" not in [path for path, cost in without.layers.items() if cost.weights]


# Counted from the layer shapes of the published code: M parameters, G multiply-adds at 224 x 224.
COUNTED = {
    ("resnet18", ()): (11.69, 1.81),
    ("resnet50", ()): (25.56, 4.09),
    ("resnext50_32x4d", ()): (25.03, 4.23),
    ("ffc_resnet18", (0.5, True)): (11.32, 1.60),
    ("ffc_resnet34", (0.25, False)): (21.42, 3.54),
    ("ffc_resnet18", (0.75, False)): (10.61, 1.31),
}


@pytest.mark.parametrize(("name", "ffc"), COUNTED, ids=str)
def test_counts_are_those_of_the_published_code(name, ffc):
    options = dict(zip(("ratio", "lfu"), ffc, strict=False))
    total = profile(abstract_model(name, **options), (1, 224, 224, 3)).total
    parameters, multiply_adds = COUNTED[name, ffc]
    assert total.parameters / 1e6 == pytest.approx(parameters, abs=0.0051)
    assert total.weights / 1e9 == pytest.approx(multiply_adds, abs=0.0151)


def test_printed_numbers_tell_their_precision():
    assert agrees(4.199, "4.1", 0) and agrees(4.001, "4.1", 0) and not agrees(4.201, "4.1", 0)
    assert agrees(0.029, ".02", 0) and agrees(102, "100.0", 0.03) and not agrees(104, "100.0", 0.03)


ROWS = {
    "imagenet": ("FFC-ResNet-50 + LFU", "ResNet-18: BAT adds"),
    "kinetics": ("C2D + NL", "TSM", "Oct-I3D"),
    "pose": ("NL adds, 256x192", "CGNL adds, 384x288", "SRL-FFT adds, 256x192"),
}


@pytest.mark.parametrize(("table", "label"), [(t, label) for t in ROWS for label in ROWS[t]])
def test_the_papers_tables_are_reproduced(table, label):
    convention, rows = TABLES[table]
    (row,) = (row for row in rows if row.label == label)
    found = recount(row, convention)
    assert agrees(found.gflops, row.gflops, 0.02)
    assert not row.parameters or agrees(found.parameters, row.parameters, 0)


def test_rows_of_networks_that_are_not_ours_are_left_uncounted():
    convention, rows = TABLES["kinetics"]
    assert all(row.model in MODELS for row in rows)
    assert recount(dataclasses.replace(rows[0], model="another"), convention) is None
