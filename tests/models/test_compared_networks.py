"""The networks that ours are compared with: published numbers and sizes, laws, what they refuse."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collectives import copied, count, split
from flax import nnx
from parity_checks import check_parity

import spectral_flax as sf
from spectral_flax.analysis.profile import profile
from spectral_flax.layers import AtrousPyramid, DeformableConv, FactorisedConv, RelationConv


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("octave_resnet26", "octave_resnet26"),
        ("r2plus1d_resnet18", "r2plus1d_resnet18"),
        ("googlenet", "googlenet"),
        ("deeplabv3_resnet50", "deeplabv3_resnet50"),
        pytest.param("s3d", "s3d", marks=pytest.mark.full),
        pytest.param("tsm_nl_resnet50", "tsm_resnet50_nl", marks=pytest.mark.full),
    ],
)
def test_published_models_give_the_published_numbers(case, name):
    check_parity(case, functools.partial(sf.abstract_model, name))


@pytest.mark.parametrize("x64", [False, True])
def test_the_pyramid_gives_the_published_numbers(x64):
    build = lambda **numerics: AtrousPyramid(8, 8, rngs=nnx.Rngs(0), **numerics)
    check_parity("aspp", build, x64=x64)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("octave_resnet50", 25_557_032),
        ("octave_resnet26", 15_995_176),
        ("r2plus1d_resnet18", 31_505_325),
        ("r3d_resnet18", 33_371_472),
        ("s3d", 8_320_048),
        ("googlenet", 6_624_904),
        ("deeplabv3_resnet50", 39_638_869),
    ],
)
def test_parameters_are_the_published_number(name, parameters):
    model = sf.abstract_model(name)
    state = nnx.state(model, nnx.Param)
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(state)) == parameters


@pytest.mark.parametrize(
    ("name", "shape", "giga"),
    [
        ("octave_resnet50", (1, 224, 224, 3), 2.367),
        ("s3d", (1, 16, 224, 224, 3), 17.98),
        ("tsm_resnet50", (1, 8, 224, 224, 3), 32.8),
    ],
)
def test_multiply_adds_are_the_published_number(name, shape, giga):
    found = profile(sf.abstract_model(name), shape).total.multiply_adds / 1e9
    assert found == pytest.approx(giga, rel=5e-3)


NARROW = {
    "octave_i3d_resnet50": (dict(width=16, depths=(1, 1)), (4, 32, 32)),
    "r2plus1d_resnet18": (dict(width=16, depths=(1, 1)), (4, 32, 32)),
    "r3d_resnet18": (dict(width=16, depths=(1, 1)), (4, 32, 32)),
    "s3d": (dict(width=16), (8, 64, 64)),
    "i3d_inception": (dict(width=16), (8, 64, 64)),
    "artnet_resnet18": (dict(width=16, depths=(1, 1, 1)), (4, 32, 32)),
    "glore_resnet50_lite": (dict(width=16, depths=(1, 1, 1)), (4, 32, 32)),
    "tsm_resnet50_nl": (dict(width=16, depths=(1, 1, 1)), (4, 32, 32)),
    "octave_resnet26": (dict(width=16, depths=(1, 1)), (32, 32)),
    "resnet50_dcn": (dict(width=16, depths=(1, 1)), (32, 32)),
    "googlenet": (dict(width=16), (64, 64)),
    "deeplabv3_resnet50": (dict(width=16, depths=(1, 1), pyramid_features=8), (32, 32)),
}


@functools.cache
def narrow(name):
    options, size = NARROW[name]
    model = sf.create_model(name, **options, num_classes=5)
    return model, jax.random.normal(jax.random.key(1), (8, *size, 3))


def maps_of(model, *size):
    """The shapes of a model's maps for an input of that size."""
    graphdef, state = nnx.split(sf.evaluation_mode(model))
    features = lambda state, x: nnx.merge(graphdef, state, copy=True).features(x)
    return jax.eval_shape(features, state, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


def pure(model, evaluation=True):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    mode = dict(use_running_average=evaluation, deterministic=True)

    def apply(params, rest, x):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return nnx.view(merged, raise_if_not_found=False, **mode)(x)

    return apply, params, rest


# The others gather nothing either: evidence/every_model.py compiles every one.
@pytest.mark.parametrize("name", ["octave_i3d_resnet50", "artnet_resnet18", "deeplabv3_resnet50"])
def test_no_activations_are_gathered_on_a_data_parallel_mesh(name, mesh):
    model, x = narrow(name)
    apply, params, rest = pure(model, evaluation=False)
    loss = lambda params, rest, x: jnp.square(apply(params, rest, x)).sum()
    given = copied(mesh, params), copied(mesh, rest), split(mesh, x)
    assert count(jax.grad(loss), *given) == 0


@pytest.mark.parametrize("name", sorted(NARROW.keys() - {"octave_resnet26", "r3d_resnet18"}))
def test_a_state_dict_goes_out_and_comes_back(name):
    model, _ = narrow(name)
    other = sf.create_model(name, **NARROW[name][0], num_classes=5, rngs=nnx.Rngs(2))
    sf.load_torch(other, sf.save_torch(model))
    pairs = zip(*(jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (model, other)), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


ORDERED = ("r2plus1d_resnet18", "r3d_resnet18", "artnet_resnet18", "octave_i3d_resnet50")


@pytest.mark.parametrize("name", ORDERED)
def test_networks_of_videos_see_the_order_of_frames(name):
    model, x = narrow(name)
    apply, params, rest = pure(model)
    y, reversed_ = (jax.jit(apply)(params, rest, clip) for clip in (x[:1], x[:1, ::-1]))
    assert np.abs(y - reversed_).max() > 1e-4


def test_strides_in_time_are_the_published_ones():
    def frames(name):
        shallow = {} if name == "s3d" else dict(depths=(1, 1, 1, 1))
        model = sf.abstract_model(name, width=16, **shallow)
        return {k: m.shape[1] for k, m in maps_of(model, 16, 64, 64).items()}

    maps = [f"stage{n}" for n in range(1, 5)]
    assert [frames("r2plus1d_resnet18")[m] for m in maps] == [16, 8, 4, 2]
    assert [frames("mc3_resnet18")[m] for m in maps] == [16, 16, 16, 16]
    assert [frames("artnet_resnet18")[m] for m in maps] == [8, 4, 2, 1]
    assert [frames("glore_resnet50_lite")[m] for m in maps] == [16, 8, 8, 8]
    assert [frames("s3d")[m] for m in maps[:3]] == [8, 4, 2]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_strides_become_dilation(output_stride):
    model = sf.abstract_model("resnet26", width=8, output_stride=output_stride)
    last = maps_of(model, 96, 64)["stage4"]
    assert last.shape[1:3] == (96 // output_stride, 64 // output_stride)
    assert model.map_sizes((96, 64))[-1] == last.shape[1:3]
    assert model.stage4[1].conv2.conv.kernel_dilation == (32 // output_stride,) * 2


def test_deformable_convolutions_are_where_they_are_asked_for():
    kinds = lambda **options: [
        [type(block.conv2.conv) is DeformableConv for block in stage]
        for stage in sf.abstract_model("resnet50_dcn", width=8, **options).stages
    ]
    assert [sum(stage) for stage in kinds()] == [0, 0, 0, 3]
    chosen = kinds(deformable_at={2: (3,), 3: (5,)})
    assert [sum(stage) for stage in chosen] == [0, 1, 1, 0] and chosen[2][5]


def test_a_factorised_convolution_has_the_parameters_of_the_one_that_it_stands_for():
    layer = FactorisedConv(64, 128, 3, rngs=nnx.Rngs(0))
    kernels = layer.spatial.conv.kernel[...].size + layer.temporal.kernel[...].size
    assert kernels == pytest.approx(27 * 64 * 128, rel=5e-3)
    assert layer.spatial.conv.out_features == 230  # as published


def test_relation_is_a_product_of_frames():
    layer = RelationConv(2, 4, 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 3, 4, 4, 2))
    square = jnp.square(layer.relation(x))
    assert layer.reduce.in_features == 4 + 2 and square.shape[-1] == 4
    layer.norm.eval()
    assert layer(x).shape == (1, 3, 4, 4, 4)
    with pytest.raises(ValueError, match="expected 3, even features"):
        RelationConv(2, 3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", dict(output_stride=5), "output_stride=5; expected one of 32, 16, 8, 4"),
        ("resnet50", dict(output_stride=64), "output_stride=64; expected"),
        ("resnet50", dict(stem="small", output_stride=32), "expected one of 8, 4, 2, 1"),
        ("resnet50", dict(deformable_at={5: (0,)}), "deformable_at names stage 5"),
        ("resnet50", dict(deformable_at={4: (3,)}), "deformable_at names number 3 of stage 4"),
        ("resnet50", dict(deformable_at=(4,)), "deformable_at=.*expected residual blocks"),
        ("octave_resnet26", dict(ratio=1.0), r"ratio_out=1.0 lies outside \[0, 1\)"),
        ("r3d_resnet18", dict(stem="large"), "stem='large'; expected 'video' or 'small'"),
        ("s3d", dict(width=2), "width=2; expected at least 4"),
        ("deeplabv3_resnet50", dict(rates=(0,)), r"rates=\(0,\); expected positive"),
        ("googlenet", dict(num_classes=0), "num_classes=0"),
    ],
)
def test_impossible_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        sf.abstract_model(name, **options)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("octave_resnet26", (36, 36), "octave convolution takes even H and W"),
        ("s3d", (8, 8, 8), "nothing is left of the input in stage"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name, size, message):
    model, _ = narrow(name)
    with pytest.raises(ValueError, match=message):
        maps_of(model, *size)
