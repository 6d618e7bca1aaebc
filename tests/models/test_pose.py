import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import apply
from collectives import copied, count, split
from flax import nnx
from parity_checks import check_parity

import spectral_flax as sf
from spectral_flax.checkpoints.earlier import options_before_records
from spectral_flax.checkpoints.load import CheckpointError, load_torch, save_torch
from spectral_flax.layers import CompactNonLocal, DoubleAttention
from spectral_flax.layers.blocks import blocks_of_rank
from spectral_flax.layers.modes import evaluation_mode

# Channels of eight groups, and a map of 2 x 1 after stage 4.
SMALL = dict(
    depths=(1, 1, 1, 1), encoder_width=8, decoder_width=16, num_joints=3, input_size=(64, 32)
)
PUBLISHED = ["nl", "a2", "cgnl", "cgnl_rbf", "rcca", "glore", "srl_fft", "srl_lo"]


@functools.cache
def small(name="pose_resnet50", **options):
    return sf.create_model(name, **SMALL | options)


def parameters(name, **options) -> int:
    state = nnx.state(sf.abstract_model(name, **options), nnx.Param)
    return sum(math.prod(v.shape) for v in jax.tree.leaves(state))


def output(model, x):
    return apply(evaluation_mode(model), x)


@pytest.mark.parametrize("block", ["srl_fft", pytest.param("srl_lo", marks=pytest.mark.full)])
def test_the_networks_compute_what_was_published(block):
    name = f"pose_resnet50_{block}"
    check_parity(name, functools.partial(sf.abstract_model, name))


@pytest.mark.parametrize(
    ("block", "added"),
    [
        ("srl_fft", 102_915),
        ("nl", 396_672),
        ("a2", 199_488),
        ("cgnl_rbf", 308_736),
        ("cgnl", 308_736),
        ("rcca", 902_259),
    ],
)
def test_three_blocks_add_the_published_number_of_parameters(block, added):
    assert parameters(f"pose_resnet50_{block}") - parameters("pose_resnet50") == added


def test_the_networks_have_the_published_number_of_parameters():
    assert parameters("pose_resnet50_srl_fft") == 34_102_612
    assert parameters("pose_resnet50_srl_lo") == 34_108_705


@pytest.mark.parametrize("encoder", ["strided", "dilated", "unstrided"])
@pytest.mark.parametrize("size", [(64, 32), (64, 96)], ids=str)
def test_heatmaps_have_a_quarter_of_the_input_size(encoder, size):
    model = small(encoder=encoder)
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    y = jax.eval_shape(lambda x: output(model, x), x)
    assert y.shape == (1, size[0] // 4, size[1] // 4, 3)
    assert small(encoder=encoder).heatmap_size == (16, 8)


def test_encoders_without_stride_keep_the_parameters_and_add_no_dilation():
    assert parameters("pose_resnet50", encoder="unstrided") == parameters(
        "pose_resnet50", encoder="dilated"
    )
    dilations = {
        encoder: small(encoder=encoder, depths=(1, 1, 2, 1)).encoder.stage3[1].conv2.conv
        for encoder in ("dilated", "unstrided")
    }
    assert dilations["dilated"].kernel_dilation == (2, 2)
    assert dilations["unstrided"].kernel_dilation == (1, 1)


@pytest.mark.parametrize("block", blocks_of_rank(2))
def test_every_block_stands_after_every_deconvolution(block):
    wide = SMALL | dict(decoder_width=64, input_size=(256, 192))
    model = sf.abstract_model(f"pose_resnet18_{block}", **wide)
    assert list(model.blocks) == ["0", "1", "2"]
    graphdef, state = nnx.split(evaluation_mode(model))
    x = jax.ShapeDtypeStruct((1, 256, 192, 3), jnp.float32)
    y = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, x)
    assert y.shape == (1, 64, 48, 3)


@pytest.mark.parametrize("block", PUBLISHED)
def test_names_shift_by_one_for_each_block_before_them(block):
    model = sf.create_model(f"pose_resnet50_{block}", **SMALL, blocks_at={"decoder": (0, 2)})
    names = save_torch(model).keys()
    numbers = sorted({int(n.split(".")[1]) for n in names if n.startswith("deconv_layers")})
    assert numbers == [0, 1, 3, 4, 5, 7, 8, 10]


@pytest.mark.parametrize(("side", "margin"), [(2, 0), (3, 1), (4, 1)])
def test_a_deconvolution_of_any_published_side_spreads_each_position(side, margin):
    """Position i adds its kernel to the result from 2 i - margin on; what lies outside is lost."""
    model = sf.create_model("pose_resnet18", **SMALL, deconvolution_kernels=side)
    conv = model.deconvolutions[0].conv
    x = np.random.default_rng(0).standard_normal((2, 3, 2, conv.in_features))
    kernel = np.float64(save_torch(model)["deconv_layers.0.weight"])
    spread = np.zeros((2, 6 + side, 4 + side, conv.out_features))
    for i, j in np.ndindex(3, 2):
        part = np.einsum("nc,cohw->nhwo", x[:, i, j], kernel)
        spread[:, 2 * i : 2 * i + side, 2 * j : 2 * j + side] += part
    wanted = spread[:, margin : margin + 6, margin : margin + 4]
    np.testing.assert_allclose(conv(jnp.float32(x)), wanted, atol=1e-6)


@pytest.mark.parametrize("block", ["srl_fft", "srl_lo", "nl"])
def test_saved_names_load_again(block):
    options = dict(blocks_at={2: (0,), "decoder": (1,)})
    a, b = (
        sf.create_model(f"pose_resnet50_{block}", **SMALL, **options, rngs=nnx.Rngs(seed))
        for seed in (0, 1)
    )
    state = save_torch(a)
    assert any(name.startswith("layer2.nl0.") for name in state)
    load_torch(b, state)
    x = jax.random.normal(jax.random.key(0), (1, 64, 32, 3))
    np.testing.assert_allclose(output(a, x), output(b, x), rtol=1e-4, atol=1e-6)


def test_a_block_stands_in_the_decoder_unless_the_encoder_is_named():
    assert list(small("pose_resnet50_nl").blocks) == ["0", "1", "2"]
    model = sf.abstract_model("pose_resnet50_nl", **SMALL, blocks_at={3: (0,)})
    assert list(model.blocks) == []
    assert [len(stage) for stage in model.encoder.stages] == [1, 1, 2, 1]


def test_a_new_spectral_block_changes_nothing():
    plain, block = small(), sf.create_model("pose_resnet50_srl_fft", **SMALL)
    state = save_torch(plain)
    gated = save_torch(block)
    shifted = {0: 0, 1: 1, 4: 3, 5: 4, 8: 6, 9: 7}
    for name in gated:
        parts = name.split(".")
        if parts[0] == "deconv_layers" and int(parts[1]) in shifted:
            parts[1] = str(shifted[int(parts[1])])
        gated[name] = state.get(".".join(parts), gated[name])
    load_torch(block, gated)
    x = jax.random.normal(jax.random.key(0), (1, 64, 32, 3))
    np.testing.assert_allclose(output(block, x), output(plain, x), atol=1e-6)


@pytest.mark.parametrize("name", ["pose_resnet50_srl_fft"])
def test_a_batch_over_devices_needs_no_gather(mesh, name):
    graphdef, params, rest = nnx.split(small(name), nnx.Param, ...)
    x = split(mesh, jnp.ones((8, 64, 32, 3)))

    def loss(params, rest, x):
        return (nnx.merge(graphdef, params, rest, copy=True)(x) ** 2).sum()

    assert count(jax.grad(loss), copied(mesh, params), copied(mesh, rest), x) == 0


def test_bfloat16_stays_bfloat16():
    model = small("pose_resnet50_srl_fft", dtype=jnp.bfloat16)
    y = jax.eval_shape(lambda x: output(model, x), jnp.zeros((1, 64, 32, 3)))
    assert y.dtype == jnp.bfloat16


def test_a_generator_file_does_not_fit():
    generator = save_torch(sf.create_model("lama", blocks=1, width=8))
    with pytest.raises(CheckpointError, match="does not fit this PoseResNet"):
        load_torch(small(), generator)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("pose_resnet50", dict(encoder="caffe"), ValueError, "encoder='caffe'"),
        ("pose_resnet50", dict(blocks_at={"decoder": (0,)}), ValueError, "block=None"),
        ("pose_resnet50_nl", dict(blocks_at=(0,)), ValueError, "expected deconvolutions"),
        ("pose_resnet50_nl", dict(blocks_at={"decoder": 0}), ValueError, "expected deconvolutions"),
        ("pose_resnet50_nl", dict(blocks_at={"decodr": (0,)}), ValueError, "decodr"),
        ("pose_resnet50", dict(num_joints=0), ValueError, "num_joints=0"),
        ("pose_resnet50", dict(deconvolutions=-1), ValueError, "deconvolutions=-1"),
        ("pose_resnet50", dict(deconvolution_kernels=5), ValueError, "kernels=5; .* 2, 3, 4"),
        ("pose_resnet50", dict(deconvolution_kernels=(4, 4)), ValueError, "or 3 of them"),
        ("pose_resnet50_nl", dict(blocks_at={"decoder": (3,)}), ValueError, "3 deconvolutions"),
        ("pose_resnet50_nl", dict(blocks_at={5: (0,)}), ValueError, "stage 5"),
        ("pose_resnet50_nl", dict(block_options={"group": 2}), TypeError, "'group'"),
        ("pose_resnet50", dict(input_size=(64,)), ValueError, "input_size"),
    ],
)
def test_bad_options_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        sf.abstract_model(name, **SMALL | options)


def test_the_published_pose_network_of_double_attention_distributes_over_positions():
    model = sf.abstract_model("pose_resnet18_a2", encoder_width=8, decoder_width=8)
    assert {block.distribute for block in decoder_blocks(model)} == {"positions"}
    given = dict(block_options=dict(distribute="channels"))
    model = sf.abstract_model("pose_resnet18_a2", encoder_width=8, decoder_width=8, **given)
    assert {block.distribute for block in decoder_blocks(model)} == {"channels"}


def test_the_published_pose_network_called_cgnl_has_the_rbf_kernel():
    blocks = {}
    for name in ("cgnl", "cgnl_rbf"):
        model = sf.abstract_model(f"pose_resnet18_{name}", encoder_width=8, decoder_width=16)
        found = [m for _, m in nnx.iter_modules(model) if isinstance(m, CompactNonLocal)]
        blocks[name] = [block.gamma for block in found]
    assert blocks["cgnl"] == blocks["cgnl_rbf"] == [1e-4] * 3


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("pose_resnet18_a2", {}, {"distribute": "channels"}),
        ("pose_resnet18", {"block": "a2"}, {"distribute": "channels"}),
        ("pose_resnet18_cgnl", {"block_options": {"groups": 4}}, {"gamma": None, "groups": 4}),
        ("resnet18_a2", {}, None),
        ("pose_resnet18_nl", {}, None),
    ],
)
def test_files_older_than_records_keep_what_was_the_default(model, options, told):
    assert options_before_records(model, options).get("block_options") == told


def decoder_blocks(model):
    return [m for _, m in nnx.iter_modules(model) if isinstance(m, DoubleAttention)]
