"""Published numbers and laws of the attention blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import apply
from flax import nnx
from parity_checks import PRECISIONS, check_parity

from spectral_flax.checkpoints.load import load_torch, save_torch
from spectral_flax.layers.attention import (
    CrissCrossAttention,
    DoubleAttention,
    GraphReasoning,
    RecurrentCrissCross,
)
from spectral_flax.layers.non_local import (
    CompactNonLocal,
    NonLocal,
    compact_non_local_rbf,
    non_local,
)

RNGS = nnx.Rngs(0)

CASES = {
    "nonlocal_2d": lambda **o: non_local(16, rngs=RNGS, **o),
    "nonlocal_3d": lambda **o: non_local(16, rank=3, rngs=RNGS, **o),
    "timm_nonlocal_attn": lambda **o: non_local(
        64, inner_features=8, scale=64**-0.5, rngs=RNGS, **o
    ),
    "double_attention": lambda **o: DoubleAttention(16, distribute="positions", rngs=RNGS, **o),
    "cgnl": lambda **o: CompactNonLocal(32, rngs=RNGS, **o),
    "cgnl_rbf": lambda **o: compact_non_local_rbf(32, rngs=RNGS, **o),
    "criss_cross": lambda **o: RecurrentCrissCross(64, rngs=RNGS, **o),
    "glore_2d": lambda **o: GraphReasoning(32, nodes=8, normalize=True, rngs=RNGS, **o),
    "glore_3d": lambda **o: GraphReasoning(32, rank=3, nodes=8, rngs=RNGS, **o),
}
MODES = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


def normal(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def opened(block):
    """The block in evaluation mode with the scale of its last normalisation set to one."""
    block.norm.scale[...] = jnp.ones_like(block.norm.scale[...])
    return nnx.view(block, raise_if_not_found=False, use_running_average=True)


def sharpened(block):
    """The block with larger kernels, so that its weights are far from uniform."""
    for name in ("query", "key", "score"):
        layer = getattr(block, name, None)
        if layer is not None:
            layer.kernel[...] = 50 * layer.kernel[...]
    return opened(block)


def count(module):
    return sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize("x64", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_the_published_code(case, x64):
    check_parity(case, CASES[case], x64=x64)


@pytest.mark.parametrize("case", ["nonlocal_2d", "nonlocal_3d"])
def test_the_chunked_form_has_the_published_numbers_too(case):
    check_parity(case, lambda **o: CASES[case](chunk=50, **o), x64=True)


@pytest.mark.parametrize(
    "make, parameters",
    [
        (non_local, 132_224),
        (DoubleAttention, 66_496),
        (compact_non_local_rbf, 102_912),
        (RecurrentCrissCross, 300_753),
    ],
)
def test_parameters_are_as_many_as_published(make, parameters):
    assert count(nnx.eval_shape(lambda: make(256, rngs=nnx.Rngs(0)))) == parameters


def test_five_non_local_blocks_of_a_resnet50_have_the_published_parameters():
    blocks = lambda c, n: n * count(nnx.eval_shape(lambda: non_local(c, rngs=nnx.Rngs(0))))
    assert blocks(512, 2) + blocks(1024, 3) == 7_358_464
    assert blocks(128, 1) + blocks(256, 1) == 165_568


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", [2, 3])
def test_names_of_any_mode_go_out_and_come_back(mode, rank):
    make = lambda seed: non_local(4, rank=rank, mode=mode, rngs=nnx.Rngs(seed))
    for family in ("SRL", "BAT video", "timm"):
        first, second = make(0), make(1)
        load_torch(second, save_torch(first, family=family))
        pairs = zip(*(jax.tree.leaves(nnx.state(m)) for m in (first, second)), strict=True)
        assert all((a == b).all() for a, b in pairs)


@pytest.mark.parametrize("mode", MODES)
def test_non_local_blocks_commute_with_permutations_of_positions(mode):
    block = sharpened(NonLocal(6, mode=mode, rngs=nnx.Rngs(0)))
    x = normal(2, 3, 5, 6)
    order = np.random.default_rng(1).permutation(15)
    permuted = lambda a: np.asarray(a).reshape(2, 15, 6)[:, order].reshape(2, 3, 5, 6)
    y = apply(block, jnp.asarray(permuted(x)))
    np.testing.assert_allclose(y, permuted(apply(block, x)), atol=1e-5)


@pytest.mark.parametrize("make", [CASES["double_attention"], CASES["cgnl"], CASES["glore_2d"]])
def test_so_do_the_other_blocks_that_see_no_axes(make):
    block = opened(make())
    c = block.features
    x = normal(2, 3, 5, c)
    order = np.random.default_rng(1).permutation(15)
    permuted = lambda a: np.asarray(a).reshape(2, 15, c)[:, order].reshape(2, 3, 5, c)
    y = apply(block, jnp.asarray(permuted(x)))
    np.testing.assert_allclose(y, permuted(apply(block, x)), atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_chunks_change_neither_output_nor_gradients(mode, sub_sample):
    options = dict(mode=mode, sub_sample=sub_sample)
    results = []
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 7, 6)))
        for chunk in (None, 4):
            block = sharpened(
                NonLocal(6, chunk=chunk, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
            )
            graphdef, params, rest = nnx.split(block, nnx.Param, ...)
            loss = lambda params, x, parts=(graphdef, rest): jnp.sum(
                jnp.sin(nnx.merge(parts[0], params, parts[1], copy=True)(x))
            )
            results.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x))
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_attention_maps_are_the_weights_of_the_sum(mode):
    block = sharpened(NonLocal(6, mode=mode, sub_sample=True, rngs=nnx.Rngs(0)))
    x = normal(2, 5, 7, 6)
    maps = block.attention_maps(x)
    assert maps.shape == (2, 5, 7, 2, 3)
    if "gaussian" in mode:
        np.testing.assert_allclose(maps.sum((-2, -1)), 1, atol=1e-5)
    pooled = np.asarray(x)[:, :4, :6].reshape(2, 2, 2, 3, 2, 6).max((2, 4))
    y = jnp.einsum("nhwij,nijc->nhwc", maps, block.value(jnp.asarray(pooled)))
    np.testing.assert_allclose(apply(block, x), x + block.norm(block.expand(y)), atol=1e-5)


def test_a_frame_of_a_video_sees_the_others():
    block = sharpened(non_local(6, rank=3, rngs=nnx.Rngs(0)))
    reach = jax.grad(lambda x: apply(block, x)[0, 0, 0, 0].sum())(normal(1, 3, 4, 4, 6))
    assert np.abs(np.asarray(reach)).sum(-1)[0, 1:].any((-1, -2)).all()


@pytest.mark.parametrize("times, whole", [(1, False), (2, True)])
def test_criss_cross_attention_reaches_every_pixel_in_two_steps(times, whole):
    block = CrissCrossAttention(8, rngs=nnx.Rngs(0))
    block.gamma[...] = jnp.ones(())
    block.query.kernel[...] = 0.1 * block.query.kernel[...]  # so that no weight underflows

    def pixel(x):
        for _ in range(times):
            x = block(x)
        return x[0, 2, 3].sum()

    reach = np.abs(jax.jit(jax.grad(pixel))(normal(1, 5, 7, 8))).sum(-1)[0] > 0
    cross = np.zeros((5, 7), bool)
    cross[2], cross[:, 3] = True, True
    np.testing.assert_array_equal(reach, np.ones((5, 7), bool) if whole else cross)


def test_the_two_softmaxes_of_double_attention_differ():
    x = normal(2, 4, 5, 8)
    make = lambda axis: opened(DoubleAttention(8, distribute=axis, rngs=nnx.Rngs(0)))
    assert np.abs(apply(make("channels"), x) - apply(make("positions"), x)).max() > 1e-4


def test_criss_cross_attention_treats_frames_alone():
    x = normal(2, 3, 4, 5, 32)
    video, image = (
        nnx.view(RecurrentCrissCross(32, rank=r, rngs=nnx.Rngs(0)), use_running_average=True)
        for r in (3, 2)
    )
    for block in (video, image):
        block.attention.gamma[...] = jnp.ones(())
        kernel = block.attention.query.kernel
        kernel[...] = 0.1 * kernel[...]
    image_state = jax.tree.map(lambda a, b: a.reshape(b.shape), nnx.state(video), nnx.state(image))
    nnx.update(image, image_state)
    y = apply(image, x.reshape(6, 4, 5, 32)).reshape(x.shape)
    np.testing.assert_allclose(apply(video, x), y, atol=1e-5)


BAD = [
    (lambda: NonLocal(7, rngs=RNGS), "features=7"),
    (lambda: NonLocal(8, mode="gausian", rngs=RNGS), "mode='gausian'; expected one of embedded"),
    (lambda: NonLocal(8, inner_features=-1, rngs=RNGS), "inner_features=-1"),
    (lambda: NonLocal(8, inner_features=2.5, rngs=RNGS), "inner_features=2.5"),
    (lambda: NonLocal(8, chunk=0, rngs=RNGS), "chunk=0"),
    (lambda: NonLocal(8, rank=4, rngs=RNGS), "rank=4"),
    (lambda: NonLocal(8, mode="dot_product", scale=0.1, rngs=RNGS), "scale=0.1"),
    (lambda: NonLocal(8, implementation="flash", rngs=RNGS), "implementation='flash'"),
    (lambda: NonLocal(-8, rngs=RNGS), "features=-8"),
    (lambda: DoubleAttention(6, rngs=RNGS), "features=6"),
    (lambda: DoubleAttention(8, distribute="rows", rngs=RNGS), "distribute='rows'"),
    (lambda: DoubleAttention(8, descriptors=0, rngs=RNGS), "descriptors=0"),
    (lambda: CompactNonLocal(24, rngs=RNGS), "inner_features=12"),
    (lambda: CompactNonLocal(32, groups=1.5, rngs=RNGS), "groups=1.5"),
    (lambda: CompactNonLocal(32, gamma=-1.0, rngs=RNGS), "gamma=-1.0"),
    (lambda: CompactNonLocal(32, gamma=1.0, order=0, rngs=RNGS), "order=0"),
    (lambda: RecurrentCrissCross(30, rngs=RNGS), "features=30"),
    (lambda: RecurrentCrissCross(32, recurrences=0, rngs=RNGS), "recurrences=0"),
    (lambda: RecurrentCrissCross(32, recurrences=True, rngs=RNGS), "recurrences=True"),
    (lambda: GraphReasoning(6, rngs=RNGS), "features=6"),
    (lambda: GraphReasoning(8, nodes=-2, rngs=RNGS), "nodes=-2"),
]


@pytest.mark.parametrize("make, message", BAD, ids=[message for _, message in BAD])
def test_an_impossible_option_is_named_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
