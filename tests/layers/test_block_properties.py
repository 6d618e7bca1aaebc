"""Non-local and bilinear attention, gates and normalisation are their formulas in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from ffc_reference import convolve, normalise
from flax import nnx
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import spectral_flax as sf
from spectral_flax.layers.attention import SqueezeExcite
from spectral_flax.layers.blocks import block
from spectral_flax.layers.norm import BatchNorm

FEW = settings(max_examples=15, derandomize=True, deadline=None, database=None)
FEW = settings(FEW, phases=[Phase.explicit, Phase.generate])
QUICK = dict(xla_backend_optimization_level=0, xla_llvm_disable_expensive_passes=True)
FEATURES = 8


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softmax(a):
    a = np.exp(a - a.max(-1, keepdims=True))
    return a / a.sum(-1, keepdims=True)


def non_local(x, state, training, *, mode, sub_sample):
    """Weigh all positions for each position ``[N, C, *spatial]`` (Wang et al., CVPR 2018)."""
    flat = lambda a: a.reshape(*a.shape[:2], -1)
    layer = lambda name, a: convolve(a, state[f"{name}.weight"], state[f"{name}.bias"])
    small = x
    for axis in (-2, -1) if sub_sample else ():
        pairs = np.moveaxis(small, axis, -1)
        half = max(1, pairs.shape[-1] // 2)
        size = min(2, pairs.shape[-1])
        pairs = pairs[..., : half * size].reshape(*pairs.shape[:-1], half, size).max(-1)
        small = np.moveaxis(pairs, -1, axis)
    q, k = (x, small) if mode == "gaussian" else (layer("t", x), layer("p", small))
    q, k, v = flat(q), flat(k), flat(layer("g", small))
    if mode == "concatenation":
        of_query, of_key = state["concat_project.0.weight"].reshape(2, -1)
        scores = np.einsum("c,nci->ni", of_query, q)[:, :, None]
        scores = np.maximum(scores + np.einsum("c,ncj->nj", of_key, k)[:, None], 0)
    else:
        scores = np.einsum("nci,ncj->nij", q, k)
    if mode in ("dot_product", "concatenation"):
        weights = scores / k.shape[-1]
    else:
        weights = softmax(scores * (q.shape[1] ** -0.5 if mode != "gaussian" else 1))
    y = np.einsum("nij,ncj->nci", weights, v).reshape(x.shape[0], -1, *x.shape[2:])
    return x + normalise(layer("z", y), state, "bn", training)


def bilinear(x, state, training, *, grid, groups, normalization):
    """Multiply rows and columns by matrices made from the map (Chi, Yuan, Mu et al., 2020)."""

    def layer(name, a):
        a = convolve(a, state[f"{name}.0.weight"], state[f"{name}.0.bias"])
        return np.maximum(normalise(a, state, f"{name}.1", training), 0)

    def matrix(name, pooled, axis):
        logits = convolve(pooled, state[f"{name}.weight"], state[f"{name}.bias"])
        logits = np.moveaxis(logits.reshape(-1, groups, grid, grid), axis, -1)
        if normalization == "softmax":
            weights = softmax(logits)
        else:
            weights = sigmoid(logits) / sigmoid(logits).sum(-1, keepdims=True)
        return np.moveaxis(weights, -1, axis)

    inner = layer("conv1", x)
    z = layer("batransform.conv1", inner)
    rows, columns = (n // grid for n in x.shape[-2:])
    blocks = z.reshape(*z.shape[:2], grid, rows, grid, columns)
    p = matrix("batransform.conv_p", blocks.max((3, 4, 5))[..., None], -1)
    q = matrix("batransform.conv_q", blocks.max((2, 3, 5))[:, :, None], -2)
    y = np.empty_like(inner)
    share = inner.shape[1] // groups
    for n, c in itertools.product(range(len(y)), range(inner.shape[1])):
        left, right = (
            np.kron(p[n, c // share], np.eye(rows)),
            np.kron(q[n, c // share], np.eye(columns)),
        )
        y[n, c] = left @ inner[n, c] @ right
    return x + layer("conv2", layer("batransform.conv2", y))


def assert_equal(layer, size, formula, training, **options):
    """Compare a block with a formula of its published state, both on random numbers."""
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(layer, (nnx.Param, nnx.BatchStat))):
        draw = rng.standard_normal(variable.shape)
        draw = np.abs(draw) + 0.5 if path[-1] == "var" else draw
        variable.set_value(jnp.asarray(draw, variable.dtype))
    x = rng.standard_normal((2, *size, FEATURES)).astype(np.float32)
    mode = dict(use_running_average=not training, deterministic=True)
    graphdef, state = nnx.split(nnx.view(layer, raise_if_not_found=False, **mode))
    apply = lambda state, x: nnx.merge(graphdef, state, copy=True)(x)
    y = jax.jit(apply, compiler_options=QUICK)(state, x)
    published = {name: np.float64(a) for name, a in sf.save_torch(layer).items()}
    wanted = formula(np.moveaxis(np.float64(x), -1, 1), published, training, **options)
    wanted = np.moveaxis(wanted, 1, -1)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


SIDES = st.integers(1, 5)
MODES = st.sampled_from(["embedded_gaussian", "gaussian", "dot_product", "concatenation"])


@FEW
@given(
    mode=MODES,
    sub_sample=st.booleans(),
    size=st.one_of(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES, SIDES)),
    training=st.booleans(),
)
def test_a_non_local_block_is_its_formula(mode, sub_sample, size, training):
    options = dict(mode=mode, sub_sample=sub_sample)
    layer = block("nl", FEATURES, rank=len(size), **options, rngs=nnx.Rngs(0))
    assert_equal(layer, size, non_local, training, **options)


@FEW
@given(
    grid=st.integers(1, 4),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 2, 4]),
    normalization=st.sampled_from(["sigmoid", "softmax"]),
    training=st.booleans(),
)
def test_bilinear_attention_is_its_formula(grid, blocks, groups, normalization, training):
    options = dict(grid=grid, groups=groups, normalization=normalization)
    layer = block("bat", FEATURES, **options, rngs=nnx.Rngs(0))
    assert_equal(layer, tuple(grid * b for b in blocks), bilinear, training, **options)


@FEW
@given(size=st.sampled_from([(3,), (2, 3), (2, 1, 3)]), seed=st.integers(0, 1000))
def test_gates_and_normalisation_are_their_formulas(size, seed):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, *size, 16)) * rng.uniform(0.1, 10) + rng.uniform(-5, 5)).astype(
        "f"
    )
    norm = BatchNorm(16)
    axes = tuple(range(x.ndim - 1))
    centred = np.float64(x) - np.float64(x).mean(axes)
    var = np.square(centred).mean(axes)
    np.testing.assert_allclose(norm(x), centred / np.sqrt(var + 1e-5), atol=2e-5)
    count = x.size // 16
    np.testing.assert_allclose(norm.mean[...], 0.1 * x.mean(axes), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var * count / (count - 1), rtol=1e-4)

    gate = SqueezeExcite(16, 4, rngs=nnx.Rngs(seed))
    reduce, expand = np.float64(gate.reduce.kernel[...]), np.float64(gate.expand.kernel[...])
    mean = np.float64(x).mean(tuple(range(1, x.ndim - 1)), keepdims=True)
    wanted = x * sigmoid(np.maximum(mean @ reduce, 0) @ expand)
    np.testing.assert_allclose(gate(x), wanted, rtol=1e-4, atol=1e-5)
