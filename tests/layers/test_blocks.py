"""Laws that hold for every block of the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from applied import apply
from collectives import copied, count, split
from flax import nnx

from spectral_flax.layers.blocks import BLOCKS, block, block_options, blocks_of_rank
from spectral_flax.layers.modes import evaluation_mode

C = 32
# Odd and unequal; the tests of any size have what else differs.
SIZES = {2: (9, 11), 3: (5, 9, 7)}
VARIANTS = [(name, rank) for name, row in BLOCKS.items() for rank in row.ranks]
every_block = pytest.mark.parametrize("name, rank", VARIANTS)


def normal(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def make(name, rank, size=None, **options):
    size = SIZES[rank] if size is None else size
    if name.startswith("bat"):
        options = dict(dropout=0.0, **options)
    return block(name, C, rank=rank, size=size[-2:], rngs=nnx.Rngs(0), **options)


@functools.cache
def made(name, rank):
    """A block for the tests that do not change it."""
    return make(name, rank)


def opened(module):
    """The module in evaluation mode with its gates and zero scales at 0.5."""
    module = nnx.clone(module)
    for path, p in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        if path[-1] in ("gate", "gamma", "scale"):
            p[...] = jnp.full_like(p[...], 0.5)
    return evaluation_mode(module)


def pure(module):
    graphdef, state = nnx.split(module)
    return lambda x: nnx.merge(graphdef, state, copy=True)(x)


@every_block
def test_a_block_trains_every_parameter_and_treats_examples_alone_in_short_types_too(name, rank):
    """Its output is compiled once for the laws of gradients, examples, ``vmap`` and bfloat16."""
    module = opened(made(name, rank))
    x = normal(2, *SIZES[rank], C)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def function(params, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    def loss(params, x):
        y = function(params, x)
        return jnp.sum(jnp.sin(y)), y

    gradients, y = jax.jit(jax.grad(loss, has_aux=True))(params, x)
    assert y.shape == x.shape and y.dtype == jnp.float32
    for path, g in nnx.to_flat_state(gradients):
        assert np.isfinite(g[...]).all() and np.any(g[...]), path

    one = jax.jit(function)
    alone = jnp.concatenate([one(params, x[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(alone, y, atol=1e-4)
    mapped = jax.jit(jax.vmap(function, (None, 0)))(params, x[:, None])
    np.testing.assert_allclose(mapped[:, 0], alone, atol=1e-4)

    short = apply(opened(make(name, rank, dtype=jnp.bfloat16)), x.astype(jnp.bfloat16))
    assert short.dtype == jnp.bfloat16
    short = np.asarray(short, np.float32)
    assert np.abs(short - y).max() < 0.05 * np.abs(y).max() + 0.05


@every_block
def test_a_new_block_is_the_identity_as_the_table_says(name, rank):
    x = normal(2, *SIZES[rank], C)
    assert np.array_equal(apply(made(name, rank), x), x) == BLOCKS[name].new_is_identity


@pytest.mark.parametrize("size", [(13, 7), (8, 8)], ids=str)
@pytest.mark.parametrize("name", blocks_of_rank(2))
def test_any_size_of_an_image_will_do(name, size):
    x = normal(1, *size, C)
    y = apply(opened(make(name, 2, size)), x)
    assert y.shape == x.shape and np.isfinite(y).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_any_size_of_a_video_will_do(name):
    size = 4, 11, 8
    x = normal(1, *size, C)
    y = apply(opened(make(name, 3, size)), x)
    assert y.shape == x.shape and np.isfinite(y).all()


@pytest.mark.parametrize("name", [n for n in BLOCKS if not n.startswith(("bat", "fno"))])
def test_a_single_position_will_do(name):
    x = normal(2, 1, 1, C)
    assert np.isfinite(apply(opened(make(name, 2, (1, 1))), x)).all()


@every_block
def test_devices_never_gather_each_others_examples(mesh, name, rank):
    graphdef, params, rest = nnx.split(made(name, rank), nnx.Param, ...)
    x = split(mesh, np.ones((8, *SIZES[rank], C), np.float32))

    def loss(params, rest, x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest, copy=True)(x)))

    both_ways = jax.value_and_grad(loss, argnums=(0, 2))
    assert count(both_ways, copied(mesh, params), copied(mesh, rest), x) == 0


@pytest.mark.parametrize("mode", ["embedded_gaussian", "concatenation"])
def test_nor_does_chunked_attention(mesh, mode):
    module = make("nl", 2, chunk=20, mode=mode)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    x = split(mesh, np.ones((8, 9, 11, C), np.float32))

    def loss(params, rest, x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest, copy=True)(x)))

    gradient = jax.grad(loss, argnums=(0, 2))
    assert count(gradient, copied(mesh, params), copied(mesh, rest), x) == 0


@every_block
def test_an_image_block_refuses_videos_and_the_reverse(name, rank):
    module = made(name, rank)
    wrong = normal(2, *SIZES[5 - rank], C)
    with pytest.raises(ValueError, match=r"built for \[N, (T, )?H, W, C\]"):
        module(wrong)


@every_block
def test_other_channels_and_integers_are_refused(name, rank):
    module = made(name, rank)
    with pytest.raises(ValueError, match=f"{C + 1} channels; .* {C}"):
        module(normal(1, *SIZES[rank], C + 1))
    with pytest.raises(TypeError, match="int32; expected a real floating"):
        module(jnp.ones((1, *SIZES[rank], C), jnp.int32))


def test_an_unknown_block_names_its_neighbour():
    with pytest.raises(ValueError, match="'srl_ftf'; closest: srl_fft"):
        block("srl_ftf", C, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", BLOCKS)
def test_an_unknown_option_names_its_neighbour(name):
    with pytest.raises(TypeError, match="'precison'; closest: precision"):
        make(name, 3, precison="highest")


def test_size_is_asked_for_where_it_is_needed():
    with pytest.raises(ValueError, match=r"size=None; .*\(H, W\)"):
        block("srl_lo", C, rngs=nnx.Rngs(0))
    assert block("nl", C, rngs=nnx.Rngs(0)).features == C


def test_the_video_block_is_for_videos():
    with pytest.raises(ValueError, match="rank=2; bat3d is for video"):
        block("bat3d", C, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", BLOCKS)
def test_options_are_those_of_the_block(name):
    options = block_options(name)
    assert {"dtype", "param_dtype", "precision"} <= set(options)
    assert not {"self", "rngs", "rank", "features", "pair", "options"} & set(options)


def test_the_name_alone_chooses_the_published_block():
    assert make("nl", 3).sub_sample and not make("nl", 2).sub_sample
    assert make("cgnl", 2).gamma is None and make("cgnl_rbf", 2).gamma == 1e-4
    assert make("rcca", 2, recurrences=3).recurrences == 3


@every_block
@pytest.mark.parametrize("numerics", [dict(dtype=jnp.bfloat16), dict(param_dtype=jnp.bfloat16)])
def test_in_bfloat16_a_block_needs_no_promotion_of_dtypes(name, rank, numerics):
    with jax.numpy_dtype_promotion("strict"):
        graphdef, state = nnx.split(nnx.eval_shape(lambda: make(name, rank, **numerics)))

        def loss(x, state):
            y = nnx.merge(graphdef, state, copy=True)(x)
            return jnp.square(y).sum().astype(np.float32), y

        x = jax.ShapeDtypeStruct((2, *SIZES[rank], C), jnp.bfloat16)
        slope, y = jax.eval_shape(jax.grad(loss, has_aux=True), x, state)
        assert y.dtype == slope.dtype == x.dtype


@pytest.mark.parametrize("name", BLOCKS)
def test_float16_holds_what_a_block_sums_up(name):
    rank = 3 if name == "bat3d" else 2
    level = 300
    x = jnp.asarray(level * (normal(2, *SIZES[rank], C) + 1), np.float16)
    halves, whole = (opened(make(name, rank, dtype=d)) for d in (np.float16, None))
    y, expected = (
        apply(nnx.view(m, raise_if_not_found=False, use_running_average=False), a)
        for m, a in ((halves, x), (whole, x.astype(np.float32)))
    )
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=0.02, atol=0.05 * level)


@every_block
def test_an_empty_batch_is_an_empty_result_and_an_empty_map_an_error(name, rank):
    function = pure(made(name, rank))
    x = jnp.zeros((0, *SIZES[rank], C))
    assert jax.eval_shape(function, x).shape == x.shape
    assert jax.eval_shape(jax.grad(lambda x: function(x).sum()), x).shape == x.shape
    for axis in range(1, rank + 1):
        shape = [0 if i == axis else n for i, n in enumerate((2, *SIZES[rank], C))]
        with pytest.raises(ValueError, match="expected no empty axis but that of the batch"):
            function(jnp.zeros(shape))


@every_block
def test_what_is_no_floating_array_is_named(name, rank):
    module = made(name, rank)
    shape = 1, *SIZES[rank], C
    for x in (None, [[1.0]], 2, "x", np.zeros(shape, bool), np.zeros(shape, np.complex64)):
        with pytest.raises(TypeError, match=r"x (is|has dtype)"):
            module(x)
    y = jax.eval_shape(pure(module), jnp.zeros(shape))
    assert jax.eval_shape(lambda: pure(module)(np.zeros(shape))) == y  # 64 bits, of NumPy
