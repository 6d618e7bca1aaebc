"""Our layers take the arguments of Flax's own under the same names, in the same order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from spectral_flax import layers
from spectral_flax.layers.deep_stem import DeepStem
from spectral_flax.layers.numerics import parameters_of
from spectral_flax.layers.transposed import TransposedConvNormAct, transposed_conv

NUMERICS = {"dtype", "param_dtype", "precision", "rngs"}
INITIAL = {"kernel_init", "bias_init"}
WINDOW = {"padding", "kernel_dilation", "feature_group_count", "use_bias"}
# Ours, Flax's, and what ours shares with it beside what is given by position.
PAIRS = [
    (layers.conv, nnx.Conv, WINDOW | INITIAL | NUMERICS),
    (layers.FFC, nnx.Conv, WINDOW | INITIAL | NUMERICS),
    (layers.OctaveConv, nnx.Conv, WINDOW | INITIAL | NUMERICS),
    (layers.DeformableConv, nnx.Conv, WINDOW | INITIAL | NUMERICS),
    (
        layers.FactorisedConv,
        nnx.Conv,
        {"kernel_dilation", "feature_group_count"} | INITIAL | NUMERICS,
    ),
    (layers.RelationConv, nnx.Conv, INITIAL | NUMERICS),
    (layers.ConvNormAct, nnx.Conv, {"dtype", "rngs"}),
    (layers.NormActConv, nnx.Conv, {"dtype"}),
    (layers.OctaveConvNormAct, nnx.Conv, set()),
    (DeepStem, nnx.Conv, NUMERICS),
    (transposed_conv, nnx.ConvTranspose, {"padding", "use_bias"} | INITIAL | NUMERICS),
    (TransposedConvNormAct, nnx.ConvTranspose, {"dtype", "param_dtype"}),
    (layers.linear, nnx.Linear, {"use_bias"} | INITIAL | NUMERICS),
    (
        layers.BatchNorm,
        nnx.BatchNorm,
        {"momentum", "epsilon", "bias_init", "scale_init", "axis_name", "use_running_average"}
        | {"dtype", "param_dtype", "rngs"},
    ),
]
OTHER_WORDS = {"stride", "dilation", "groups", "bias", "in_channels", "out_channels", "eps"}


def positional(function) -> list[str]:
    parameters = parameters_of(function).values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("ours, theirs, shared", PAIRS, ids=lambda p: getattr(p, "__name__", ""))
def test_arguments_have_the_names_and_order_of_flax(ours, theirs, shared):
    assert positional(ours) == positional(theirs)
    names = set(parameters_of(ours))
    assert shared == (names & set(parameters_of(theirs))) - set(positional(theirs))
    assert not names & OTHER_WORDS


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(strides=2, padding="SAME"),
        dict(padding="VALID", kernel_dilation=2, feature_group_count=2),
        dict(strides=(2, 1), padding=((1, 1), (0, 0)), use_bias=False),
        dict(padding=[2, 0], bias_init=nnx.initializers.ones, dtype=jnp.bfloat16),
        dict(kernel_init=nnx.initializers.ones, precision="highest", strides=3, padding=2),
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
def test_a_plain_layer_of_the_same_arguments_is_the_layer_of_flax(options):
    window = (8, 16, (3, 3))
    options = dict(padding="SAME", use_bias=True) | options
    theirs = nnx.Conv(*window, **options, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 8, 7, 8))
    for ours in (
        layers.conv(*window, **options, rngs=nnx.Rngs(0)),
        layers.FFC(*window, **options, ratio_in=0, ratio_out=0, rngs=nnx.Rngs(0)),
    ):
        held = ours if isinstance(ours, nnx.Conv) else ours.to_local
        if "kernel_init" in options:
            np.testing.assert_array_equal(held.kernel[...], theirs.kernel[...])
        if "bias_init" in options:
            np.testing.assert_array_equal(held.bias[...], theirs.bias[...])
        nnx.update(held, nnx.state(theirs))
        y, wanted = ours(x), theirs(x)
        assert y.shape == wanted.shape and y.dtype == wanted.dtype
        tolerance = 2e-2 if y.dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(*np.float32((y, wanted)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3])
def test_every_path_of_a_layer_padded_as_tensorflow_has_the_size_of_flax(kernel, strides):
    window = (16, 16, (kernel, kernel), strides)
    theirs = nnx.Conv(*window, rngs=nnx.Rngs(0))
    for ratio in (0.5, 1):
        ratios = dict(ratio_in=ratio, ratio_out=ratio)
        ours = layers.FFC(*window, padding="SAME", **ratios, rngs=nnx.Rngs(0))
        for size in (6, 7):
            x = jax.ShapeDtypeStruct((1, size, size + 1, 16), jnp.float32)
            shapes = [nnx.eval_shape(lambda m, x: m(x), m, x).shape for m in (ours, theirs)]
            assert shapes[0] == shapes[1]


def test_one_initialiser_draws_every_convolution_of_a_layer():
    names = dict(kernel_init=nnx.initializers.constant(2.0), bias_init=nnx.initializers.ones)
    for layer in (
        layers.FFC(16, 16, use_bias=True, **names, rngs=nnx.Rngs(0)),
        layers.OctaveConv(8, 8, use_bias=True, **names, rngs=nnx.Rngs(0)),
        layers.FactorisedConv(4, 4, **names, rngs=nnx.Rngs(0)),
    ):
        convs = [m for _, m in nnx.iter_modules(layer) if isinstance(m, nnx.Conv)]
        assert len(convs) > 1
        for conv in convs:
            assert np.all(conv.kernel[...] == 2)
            assert conv.bias is None or np.all(conv.bias[...] == 1)
    deformable = layers.DeformableConv(4, 4, use_bias=True, **names, rngs=nnx.Rngs(0))
    assert np.all(deformable.kernel[...] == 2) and np.all(deformable.bias[...] == 1)
    assert not np.any(deformable.offset.kernel[...])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda r: layers.FFC(8, 8, padding="REFLECT", rngs=r), "padding='REFLECT'; expected num"),
        (lambda r: layers.conv(8, 8, 3, padding=((0, 1), (1, 1)), rngs=r), "same on both sides"),
        (lambda r: layers.conv(8, 8, 3, padding=(1, 1, 1), rngs=r), "padding=.* or 2 of them"),
        (
            lambda r: layers.FFC(8, 8, padding="SAME", padding_mode="reflect", rngs=r),
            "padding='SAME' with padding_mode='reflect'",
        ),
        (lambda r: layers.DeformableConv(8, 8, padding="SAME", rngs=r), "padding='SAME'; deform"),
    ],
)
def test_a_padding_that_a_layer_lacks_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(nnx.Rngs(0))
