"""Laws of bilinear attentional transforms."""

import re

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import apply
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from parity_checks import PRECISIONS, check_parity

from spectral_flax.layers.bilinear import BilinearAttention, BilinearTransform, bat, bat3d


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def evaluated(module):
    mode = dict(use_running_average=True, deterministic=True)
    return nnx.view(module, raise_if_not_found=False, **mode)


def count(module):
    return sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))


def image(**options):
    return bat(16, rngs=nnx.Rngs(0), **(dict(grid=3, groups=2) | options))


def video(**options):
    return bat(16, rank=3, rngs=nnx.Rngs(0), **(dict(grid=3, groups=2) | options))


def video3d(**options):
    options = dict(grid=3, groups=4, temporal_groups=2, temporal_grid=2) | options
    return bat3d(16, rngs=nnx.Rngs(0), **options)


BLOCKS = [
    (image, (6, 9)),
    (image, (7, 11)),
    (video, (3, 6, 7)),
    (video3d, (4, 6, 6)),
    (video3d, (3, 7, 5)),
]
every_block = pytest.mark.parametrize("make, size", BLOCKS)
# A grid that divides the map and one that does not. test_blocks.py has these laws for all ranks.
two_blocks = pytest.mark.parametrize("make, size", [(image, (6, 9)), (video3d, (3, 7, 5))])

CASES = {
    "bat_2d": lambda **o: bat(32, dropout=0, rngs=nnx.Rngs(0), **o),
    "bat_2d_unpooled": lambda **o: bat(16, grid=4, groups=2, rngs=nnx.Rngs(0), **o),
    "bat_3d": lambda **o: bat(32, rank=3, groups=4, temporal_groups=2, rngs=nnx.Rngs(0), **o),
    "bat_3d_spatial_only": lambda **o: bat(32, rank=3, groups=4, rngs=nnx.Rngs(0), **o),
    "bat_3d_larger_grid": lambda **o: bat3d(32, groups=4, temporal_groups=2, rngs=nnx.Rngs(0), **o),
    "timm_bat_attn": lambda **o: bat(
        64, grid=8, groups=2, reduction=4, use_bias=False, rngs=nnx.Rngs(0), **o
    ),
}


@pytest.mark.parametrize("x64", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_the_published_code(case, x64):
    check_parity(case, CASES[case], x64=x64)


@pytest.mark.parametrize(
    "build, parameters",
    [
        (CASES["bat_2d"], 12_916),
        (CASES["bat_2d_unpooled"], 1_014),
        (CASES["bat_3d"], 13_460),
        (CASES["timm_bat_attn"], 6_884),
        # Five blocks in ResNet-50, with 4 and with 8 groups, and two in ResNet-18.
        (lambda: [bat(c, rngs=nnx.Rngs(0)) for c in (512, 512, 1024, 1024, 1024)], 4_677_188),
        (
            lambda: [bat(c, groups=8, rngs=nnx.Rngs(0)) for c in (512, 512, 1024, 1024, 1024)],
            4_852_040,
        ),
        (lambda: [bat(c, rngs=nnx.Rngs(0)) for c in (128, 256)], 128_232),
    ],
)
def test_parameters_are_as_many_as_published(build, parameters):
    blocks = nnx.eval_shape(lambda: nnx.List(np.atleast_1d(build()).tolist()))
    assert count(blocks) == parameters


@two_blocks
def test_a_block_keeps_shape_and_dtype_and_every_parameter_gets_a_gradient(make, size):
    x = normal(2, *size, 16)
    graphdef, params, rest = nnx.split(make(dropout=0), nnx.Param, ...)

    @jax.jit
    def gradient(params):
        def loss(params):
            y = nnx.merge(graphdef, params, rest, copy=True)(x)
            return jnp.sum(jnp.sin(y)), y

        return jax.grad(loss, has_aux=True)(params)

    gradients, y = gradient(params)
    assert y.shape == x.shape and y.dtype == jnp.float32
    for path, g in nnx.to_flat_state(gradients):
        assert np.isfinite(g[...]).all() and np.any(g[...]), path


@pytest.mark.parametrize("size", [(7, 7), (5, 13), (3, 4), (11, 11), (8, 15)], ids=str)
def test_any_size_from_the_grid_on_will_do(size):
    x = normal(1, *size, 16)
    y = apply(evaluated(image()), x)
    assert y.shape == x.shape and np.isfinite(y).all()


@two_blocks
def test_bfloat16_blocks_take_and_give_bfloat16_near_float32(make, size):
    x = normal(2, *size, 16)
    expected = np.asarray(apply(evaluated(make()), x))
    block = evaluated(make(dtype=jnp.bfloat16))
    y = apply(block, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert np.abs(np.asarray(y, np.float32) - expected).max() < 0.02 * np.abs(expected).max()
    assert {p.dtype for p in jax.tree.leaves(nnx.state(block, nnx.Param))} == {np.dtype("float32")}


@two_blocks
def test_a_batch_of_two_is_the_two_alone(make, size):
    x = normal(2, *size, 16)
    block = evaluated(make())
    both = np.asarray(apply(block, x))
    for i in range(2):
        np.testing.assert_allclose(apply(block, x[i : i + 1])[0], both[i], atol=1e-5)


def test_frames_are_alone_without_temporal_groups_and_mixed_with_them():
    x = normal(1, 4, 6, 6, 16)
    other = x.at[:, 3].set(normal(6, 6, 16, seed=1))
    for block, mixed in ((video(), False), (video3d(), True)):
        block = evaluated(block)
        change = np.abs(apply(block, other) - apply(block, x))[:, 0].max()
        assert (change > 1e-4) == mixed


@two_blocks
def test_devices_never_gather_each_others_examples(make, size):
    graphdef, params, rest = nnx.split(make(), nnx.Param, ...)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.ShapeDtypeStruct(
        (16, *size, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )

    def loss(params, x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest, copy=True)(x)))

    text = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x).compile().as_text()
    assert not re.search(collectives.MOVES, text)


def set_identity(layer, groups, normalization):
    """Make a matrix layer give the identity: large logits on its diagonal, whatever the input."""
    layer.kernel[...] = jnp.zeros(layer.kernel.shape)
    size = int(np.sqrt(layer.bias.shape[0] / groups))
    logits = np.where(np.eye(size), 100.0, -100.0)
    layer.bias[...] = jnp.asarray(np.tile(logits.reshape(-1), groups), jnp.float32)


@pytest.mark.parametrize("make, size", [(image, (6, 6)), (video3d, (4, 6, 9))])
def test_with_identity_matrices_it_is_its_pointwise_convolutions(make, size):
    block = evaluated(make())
    transform = block.transform
    set_identity(transform.rows, transform.groups, transform.normalization)
    set_identity(transform.columns, transform.groups, transform.normalization)
    if transform.frames is not None:
        set_identity(transform.frames, transform.temporal_groups, "softmax")
    x = normal(2, *size, 16)
    expected = x + block.expand(transform.expand(block.reduce(x)))
    np.testing.assert_allclose(apply(block, x), expected, atol=1e-5)


@every_block
def test_matrices_are_stochastic_in_the_direction_that_is_summed(make, size):
    block = evaluated(make())
    maps = apply(block, normal(2, *size, 16), method="attention_maps")
    assert maps.p.shape[:-2] == maps.q.shape[:-2] == (2, *size[:-2], block.transform.groups)
    np.testing.assert_allclose(maps.p.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(maps.q.sum(-2), 1, rtol=1e-5)
    if block.transform.frames is None:
        assert maps.t is None
    else:
        np.testing.assert_allclose(maps.t.sum(-1), 1, rtol=1e-5)
    assert maps.activation.shape == maps.reprojection.shape
    assert maps.activation.shape == (*maps.p.shape[:-2], *size[-2:])


def test_the_reprojection_of_one_position_is_the_attention_it_pays():
    block = evaluated(image())
    x = normal(2, 6, 9, 16)
    one = jnp.zeros((2, 2, 6, 9)).at[:, :, 4, 7].set(1)
    maps = apply(block, x, one, method="attention_maps")
    # Position (4, 7) is place 0 of row block 2 and place 1 of column block 2 (blocks of 2 and 3).
    expected = np.zeros((2, 2, 6, 9))
    expected[:, :, 0::2, 1::3] = np.einsum("ngj,ngk->ngjk", maps.p[:, :, 2], maps.q[:, :, :, 2])
    np.testing.assert_allclose(maps.reprojection, expected, atol=1e-6)
    np.testing.assert_allclose(maps.reprojection.sum((-1, -2)), 1, rtol=1e-5)


def test_dropout_drops_whole_channels_and_only_in_training():
    block = video(dropout=0.5)
    block.expand.norm.bias[...] = jnp.full((16,), 3.0)  # no channel is zero of itself
    x = normal(2, 3, 6, 6, 16)
    added = np.asarray(apply(block, x) - x).reshape(2, -1, 16)
    dropped = (np.abs(added) < 1e-6).all(1)
    assert 0 < dropped.sum() < dropped.size
    assert (np.abs(added).max(1) > 1e-6)[~dropped].all()
    np.testing.assert_array_equal(apply(evaluated(block), x), apply(evaluated(block), x))
    assert evaluated(image(dropout=0)).dropout.rate == 0


def test_defaults_are_those_of_the_published_code():
    block = nnx.eval_shape(lambda: bat(32, rngs=nnx.Rngs(0)))
    assert block.transform.features == 16 and block.dropout.rate == 0.2
    assert block.transform.grid == 7 and block.transform.normalization == "sigmoid"
    block = nnx.eval_shape(lambda: bat3d(64, rngs=nnx.Rngs(0)))
    assert block.transform.groups == 8 and block.transform.normalization == "softmax"
    assert block.transform.temporal_groups == block.transform.temporal_grid == 4


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: image(groups=3), "features=8 is not a multiple of groups=3"),
        (lambda: image(reduction=3), "features=16 is not a multiple of reduction=3"),
        (lambda: image(grid=-1), "grid=-1; expected a positive integer"),
        (lambda: image(grid=2.5), "grid=2.5; expected a positive integer"),
        (lambda: image(groups=0), "groups=0; expected a positive integer"),
        (lambda: image(dropout=1), "dropout=1; expected a rate"),
        (lambda: image(normalization="max"), "normalization='max'; expected 'sigmoid'"),
        (lambda: image(temporal_groups=2), "temporal_groups=2 needs rank=3"),
        (lambda: video(temporal_groups=-1), "temporal_groups=-1; expected a positive integer"),
        (lambda: video(temporal_groups=3), "features=8 is not a multiple of temporal_groups=3"),
        (lambda: video3d(temporal_grid=0), "temporal_grid=0; expected a positive integer"),
        (lambda: bat(16, rank=1, rngs=nnx.Rngs(0)), "rank=1; expected 2"),
        (lambda: bat3d(16, rank=2, rngs=nnx.Rngs(0)), "rank=2; bat3d is for video"),
        (lambda: BilinearTransform(6, groups=4, rngs=nnx.Rngs(0)), "multiple of groups=4"),
        (lambda: BilinearAttention(0, rngs=nnx.Rngs(0)), "features=0; expected a positive"),
    ],
)
def test_options_that_make_no_sense_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "make, shape, message",
    [
        (image, (2, 6, 2, 16), "grid=3 is larger than the map, whose axis has length 2"),
        (video3d, (2, 1, 6, 6, 16), "grid=2 is larger than the map, whose axis has length 1"),
        (image, (2, 3, 6, 6, 16), "a video batch; this block was built for .N, H, W, C."),
        (video, (2, 6, 6, 16), "an image batch; this block was built for .N, T, H, W, C."),
        (image, (2, 6, 6, 8), "x has 8 channels; this block was built for 16"),
    ],
)
def test_maps_that_a_block_was_not_built_for_are_errors(make, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: nnx.merge(*nnx.split(make()), copy=True)(x), normal(*shape))


def test_an_activation_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"activation has shape .*; expected \(2, 2, 6, 6\)"):
        apply(
            evaluated(image()), normal(2, 6, 6, 16), jnp.zeros((2, 6, 6)), method="attention_maps"
        )
