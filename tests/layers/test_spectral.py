"""Laws of spectral residual blocks."""

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

from spectral_flax.functional import pairs
from spectral_flax.layers.spectral import (
    SpectralResidual,
    srl_fft,
    srl_lo,
)


def normal(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def evaluated(module):
    return nnx.view(module, raise_if_not_found=False, use_running_average=True)


def opened(block, value=0.7):
    """The block with its gate set, so that the transform is seen in the output."""
    if block.gate is not None:
        block.gate[...] = jnp.asarray(value)
    return evaluated(block)


def count(module):
    return sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))


IMAGE = {
    "fft": lambda size, **o: srl_fft(8, groups=4, rngs=nnx.Rngs(0), **o),
    "fft, spectrum relu": lambda size, **o: srl_fft(
        8, groups=4, spectrum_size=size, rngs=nnx.Rngs(0), **o
    ),
    "fft, bottleneck": lambda size, **o: srl_fft(8, groups=2, bottleneck=4, rngs=nnx.Rngs(0), **o),
    "lo": lambda size, **o: srl_lo(8, size=size, rngs=nnx.Rngs(0), **o),
    "lo, qr": lambda size, **o: srl_lo(8, size=size, orthogonal="qr", rngs=nnx.Rngs(0), **o),
    "lo, spectrum relu": lambda size, **o: srl_lo(
        8, size=size, spectrum_relu=True, rngs=nnx.Rngs(0), **o
    ),
    "cosine": lambda size, **o: SpectralResidual(8, pair=pairs.Cosine(), rngs=nnx.Rngs(0), **o),
}
VIDEO = {
    "fft": lambda size, **o: srl_fft(8, rank=3, groups=4, rngs=nnx.Rngs(0), **o),
    "fft, pooled": lambda size, **o: srl_fft(
        8, rank=3, groups=4, temporal_pooling="average", rngs=nnx.Rngs(0), **o
    ),
    "fft of time": lambda size, **o: srl_fft(
        8, rank=3, groups=4, transform_time=True, rngs=nnx.Rngs(0), **o
    ),
    "lo": lambda size, **o: srl_lo(8, rank=3, size=size[1:], rngs=nnx.Rngs(0), **o),
    "lo of time": lambda size, **o: srl_lo(
        8, rank=3, size=size, transform_time=True, rngs=nnx.Rngs(0), **o
    ),
}
BLOCKS = [(make, (6, 5)) for make in IMAGE.values()] + [
    (make, (3, 6, 5)) for make in VIDEO.values()
]
BLOCK_NAMES = [f"image {n}" for n in IMAGE] + [f"video {n}" for n in VIDEO]
# The others are in the table of blocks, for each of which test_blocks.py has the same laws.
IN_TABLE = {f"image {n}" for n in ("fft", "lo", "cosine")} | {"video fft", "video lo"}
every_block = pytest.mark.parametrize(
    "make, size",
    [
        pytest.param(*row, id=name)
        for name, row in zip(BLOCK_NAMES, BLOCKS, strict=True)
        if name not in IN_TABLE
    ],
)

CASES = {
    "srl_fft": lambda **o: srl_fft(16, rngs=nnx.Rngs(0), **o),
    "srl_fft_spectrum_relu": lambda **o: srl_fft(16, spectrum_size=(16, 12), rngs=nnx.Rngs(0), **o),
    "srl_lo": lambda **o: srl_lo(16, size=(16, 12), rngs=nnx.Rngs(0), **o),
    "srl_lo_spectrum_relu": lambda **o: srl_lo(
        16, size=(16, 12), spectrum_relu=True, rngs=nnx.Rngs(0), **o
    ),
}


@pytest.mark.parametrize("x64", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_the_published_code(case, x64):
    bound = 3e-7 if x64 and "lo" in case else None
    check_parity(case, CASES[case], x64=x64, bound=bound)


@pytest.mark.parametrize("x64", PRECISIONS)
def test_the_published_retraction_gives_the_published_numbers(x64):
    build = lambda **options: CASES["srl_lo"](orthogonal="qr", **options)
    check_parity("srl_lo", build, x64=x64, bound=3e-7 if x64 else None)


@pytest.mark.parametrize(
    "make, parameters",
    [
        (lambda: srl_fft(256, rngs=nnx.Rngs(0)), 34_305),
        (lambda: CASES["srl_fft"](), 225),
        (lambda: CASES["srl_fft_spectrum_relu"](), 449),
        (lambda: CASES["srl_lo"](), 576),
        (lambda: CASES["srl_lo"](orthogonal="qr"), 576),
        (lambda: CASES["srl_lo_spectrum_relu"](), 960),
    ],
)
def test_parameters_are_as_many_as_published(make, parameters):
    assert count(make()) == parameters


@every_block
def test_a_block_keeps_shape_and_dtype_and_every_parameter_gets_a_gradient(make, size):
    block = make(size)
    if block.gate is not None:
        block.gate[...] = jnp.asarray(0.5)
    x = normal(2, *size, 8)
    graphdef, params, rest = nnx.split(block, nnx.Param, ...)

    @jax.jit
    def gradient(params):
        def loss(params):
            y = nnx.merge(graphdef, params, rest, copy=True)(x)
            return jnp.sum(jnp.sin(y)), y

        return jax.grad(loss, has_aux=True)(params)

    gradients, y = gradient(params)
    assert y.shape == x.shape and y.dtype == jnp.float32
    for path, g in nnx.to_flat_state(gradients):
        norms = np.linalg.norm(np.atleast_2d(g[...]), axis=0)
        assert np.isfinite(norms).all() and norms.any(), path


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("name", IMAGE)
def test_any_size_will_do(name, size):
    x = normal(2, *size, 8)
    y = apply(IMAGE[name](size), x)
    assert y.shape == x.shape and np.isfinite(y).all()


@every_block
def test_bfloat16_blocks_take_and_give_bfloat16(make, size):
    x = normal(2, *size, 8)
    expected = apply(opened(make(size)), x)
    block = make(size, dtype=jnp.bfloat16)
    y = apply(block, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and np.isfinite(np.asarray(y, np.float32)).all()
    assert expected.dtype == jnp.float32
    assert {p.dtype for p in jax.tree.leaves(nnx.state(block))} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("orthogonal", ["householder", "qr"])
def test_bfloat16_is_near_float32(orthogonal):
    x = normal(2, 8, 6, 8)
    make = lambda **o: evaluated(
        srl_lo(8, size=(8, 6), orthogonal=orthogonal, rngs=nnx.Rngs(1), **o)
    )
    y = np.asarray(apply(make(dtype=jnp.bfloat16), x), np.float32)
    np.testing.assert_allclose(y, apply(make(), x), atol=0.15)


@every_block
def test_each_example_is_treated_alone(make, size):
    x = normal(2, *size, 8)
    block = opened(make(size))
    both = np.asarray(apply(block, x))
    for i in range(2):
        np.testing.assert_allclose(apply(block, x[i : i + 1])[0], both[i], atol=1e-4)


@every_block
def test_devices_never_gather_each_others_examples(make, size):
    graphdef, params, rest = nnx.split(make(size), nnx.Param, ...)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.ShapeDtypeStruct(
        (16, *size, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
    )

    def loss(params, x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest, copy=True)(x)))

    text = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x).compile().as_text()
    assert not re.search(collectives.MOVES, text)


@pytest.mark.parametrize("name", ["fft", "fft, spectrum relu", "fft, bottleneck", "cosine"])
def test_a_closed_gate_is_the_identity(name):
    x = normal(2, 6, 5, 8)
    np.testing.assert_array_equal(apply(IMAGE[name]((6, 5)), x), x)


def test_a_gate_of_the_root_of_the_map_makes_the_published_transform_a_unitary_one():
    h, w = 6, 8
    published = srl_fft(8, groups=4, gate_init=(h * w) ** 0.5, rngs=nnx.Rngs(0))
    unitary = srl_fft(8, groups=4, norm="ortho", gate=False, rngs=nnx.Rngs(0))
    x = normal(2, h, w, 8)
    for block in (published, unitary):
        block.norm.epsilon = 0.0
    np.testing.assert_allclose(published(x), unitary(x), rtol=1e-4, atol=1e-5)


def test_the_orthogonal_block_has_no_gate_unless_asked():
    assert IMAGE["lo"]((6, 5)).gate is None
    x = normal(2, 6, 5, 8)
    np.testing.assert_array_equal(apply(IMAGE["lo"]((6, 5), gate=True), x), x)


@pytest.mark.parametrize("name", ["fft", "fft, bottleneck"])
def test_a_shift_by_half_the_map_goes_through_where_the_spectrum_is_real(name):
    # ReLU acts on real and imaginary parts, so a shift passes through only if it multiplies
    # coefficients by real positive numbers: none does but the identity in general. Maps that repeat
    # after half their size have no odd frequencies and pass every such half shift.
    block = opened(IMAGE[name]((8, 6)))
    tile = normal(2, 4, 3, 8)
    x = jnp.tile(tile, (1, 2, 2, 1))
    y = apply(block, x)
    np.testing.assert_allclose(jnp.roll(y, (4, 3), (1, 2)), y, atol=1e-4)


def test_without_the_rectifier_a_shift_of_the_input_is_a_shift_of_the_output():
    # A real convolution of the packed spectrum with kernel k I, k > 0, commutes with shifts; with a
    # bias large enough no coefficient is rectified and the bias adds the same map everywhere.
    block = srl_fft(8, groups=4, norm="ortho", rngs=nnx.Rngs(0))
    block.norm.bias[...] = jnp.full((16,), 100.0)
    block = opened(block, 1.0)
    x = normal(2, 6, 5, 8)
    at_rest = apply(block, jnp.zeros_like(x))
    moved = apply(block, jnp.roll(x, (2, 3), (1, 2))) - at_rest
    expected = jnp.roll(apply(block, x) - at_rest, (2, 3), (1, 2))
    np.testing.assert_allclose(moved, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["fft", "lo"])
def test_every_position_sees_every_other(name):
    graphdef, state = nnx.split(opened(IMAGE[name]((6, 5))))
    at_centre = lambda x: nnx.merge(graphdef, state, copy=True)(x)[0, 2, 2].sum()
    seen = jax.jit(jax.grad(at_centre))(normal(1, 6, 5, 8))
    assert (np.abs(seen).sum(-1) > 1e-6).all()


def test_phi_is_the_rectifier_at_first():
    # Identity convolution, statistics 0 and 1: the block is x + inverse(relu(forward(x))).
    for name in ("fft", "lo", "cosine"):
        block = opened(IMAGE[name]((6, 5)), 1.0)
        x = normal(2, 6, 5, 8)
        pair = block.pair() if isinstance(block.pair, nnx.Module) else block.pair
        expected = x + pair.inverse(nnx.relu(pair.forward(x)), (6, 5))
        np.testing.assert_allclose(apply(block, x), expected, atol=1e-3, err_msg=name)


def test_the_temporal_convolution_is_the_identity_at_first():
    x = normal(2, 3, 6, 5, 8)
    image, video = (opened(d["fft"](None), 1.0) for d in (IMAGE, VIDEO))
    y = np.asarray(apply(video, x))
    for t in range(3):
        np.testing.assert_allclose(y[:, t], apply(image, x[:, t]), atol=1e-4)


@pytest.mark.parametrize("method", ["average", "max"])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_frames_are_pooled_over_the_neighbours_that_exist(frames, method):
    block = SpectralResidual(
        4,
        pair=pairs.Identity(),
        rank=3,
        temporal_kernel=3,
        temporal_pooling=method,
        gate=False,
        rngs=nnx.Rngs(0),
    )
    x = normal(1, frames, 2, 2, 4)
    s = np.maximum(np.asarray(x) / np.sqrt(1 + 1e-5), 0)
    reduce = np.mean if method == "average" else np.max
    pooled = [reduce(s[:, max(t - 1, 0) : t + 2], 1) for t in range(frames)]
    np.testing.assert_allclose(apply(evaluated(block), x), x + np.stack(pooled, 1), atol=1e-5)


def test_a_pair_of_ones_own_needs_no_change_of_the_library():
    flip = pairs.TransformPair(
        lambda x: x[:, ::-1], lambda s, sizes: s.reshape(-1, *sizes, s.shape[-1])[:, ::-1]
    )
    block = SpectralResidual(4, pair=flip, gate=False, spectrum_size=(3, 2), rngs=nnx.Rngs(0))
    x = normal(2, 3, 2, 4)
    expected = x + nnx.relu(x) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(apply(evaluated(block), x), expected, atol=1e-5)


def test_a_learned_pair_is_a_module_that_returns_a_pair():
    class Scaled(nnx.Module):
        multiplier = 1

        def __init__(self):
            self.scale = nnx.Param(jnp.asarray(2.0))

        def __call__(self):
            scale = self.scale[...]
            return pairs.TransformPair(lambda x: x * scale, lambda s, sizes: s / scale)

    block = SpectralResidual(4, pair=Scaled(), gate=False, rngs=nnx.Rngs(0))
    x = normal(2, 3, 2, 4)
    expected = x + nnx.relu(x) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(apply(evaluated(block), x), expected, atol=1e-5)


def test_abstract_construction_needs_no_values():
    for make, size in BLOCKS:
        nnx.eval_shape(lambda make=make, size=size: make(size))
