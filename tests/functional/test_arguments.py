"""What every function says of arguments that it cannot take, and of empty ones."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_flax.functional import (
    apply_reflectors,
    attention,
    bilinear,
    fourier,
    keypoints,
    orthogonal_matrix,
    pairs,
    pooling,
    qr_retraction,
    quarters,
)

# Shapes of the arguments, all with a batch of two, and the axes of the first that are positions.
CALLS = {
    "softmax": (attention.softmax_attention, ((2, 5, 4), (2, 6, 4), (2, 6, 3)), ()),
    "softmax in chunks": (
        lambda q, k, v: attention.softmax_attention(q, k, v, chunk=2),
        ((2, 5, 4), (2, 6, 4), (2, 6, 3)),
        (),
    ),
    "softmax's weights": (attention.softmax_weights, ((2, 5, 4), (2, 6, 4)), ()),
    "dot product": (attention.dot_product_attention, ((2, 5, 4), (2, 6, 4), (2, 6, 3)), ()),
    "dot product's weights": (attention.dot_product_weights, ((2, 5, 4), (2, 6, 4)), ()),
    "concatenation": (attention.concatenation_attention, ((2, 5), (2, 6), (2, 6, 3)), ()),
    "concatenation's weights": (attention.concatenation_weights, ((2, 5), (2, 6)), ()),
    "double": (attention.double_attention, ((2, 6, 4), (2, 6, 3), (2, 6, 3)), (1,)),
    "compact": (attention.compact_attention, ((2, 6, 4),) * 3, (1,)),
    "criss-cross": (
        attention.criss_cross_attention,
        ((2, 5, 6, 4), (2, 5, 6, 4), (2, 5, 6, 3)),
        (1, 2),
    ),
    "gather": (attention.gather_nodes, ((2, 6, 4), (2, 6, 3)), (1,)),
    "scatter": (attention.scatter_nodes, ((2, 4, 3), (2, 6, 3)), ()),
    "bilinear": (bilinear.bilinear_product, ((2, 5, 6, 4), (2, 2, 3, 3), (2, 2, 2, 2)), (1, 2)),
    "bilinear of many blocks": (
        bilinear.bilinear_product,
        ((2, 9, 9, 4), (2, 2, 9, 9), (2, 2, 9, 9)),
        (1, 2),
    ),
    "temporal": (bilinear.temporal_product, ((2, 5, 3, 4), (2, 2, 3, 3)), (1,)),
    "reproject": (bilinear.reproject, ((2, 2, 5, 6), (2, 2, 3, 3), (2, 2, 2, 2)), (2, 3)),
    "rfft2": (fourier.rfft2, ((2, 20, 5, 4),), (1, 2)),
    "rfft2 by matrices": (
        lambda x: fourier.rfft2(x, implementation="matmul"),
        ((2, 4, 5, 4),),
        (1, 2),
    ),
    "irfft2": (lambda s: fourier.irfft2(s, 5), ((2, 20, 3, 4),), (1,)),
    "irfft2 by auto": (lambda s: fourier.irfft2(s, 5), ((2, 4, 3, 4),), (1,)),
    "rfft3": (fourier.rfft3, ((2, 3, 4, 5, 4),), (1, 2, 3)),
    "irfft3": (lambda s: fourier.irfft3(s, 5), ((2, 3, 4, 3, 4),), (1, 2)),
    "quarters": (quarters.split_quarters, ((2, 5, 4, 3),), (1, 2)),
    "tiles": (lambda x: quarters.tile_quarters(x, 5, 4), ((2, 3, 2, 3),), (1, 2)),
    "cosine": (pairs.Cosine().forward, ((2, 5, 4, 3),), (1, 2)),
    "Hadamard": (pairs.Hadamard().forward, ((2, 4, 8, 3),), (1, 2)),
    "Fourier": (fourier.RealFFT().forward, ((2, 4, 8, 3),), (1, 2)),
    "average": (lambda x: pooling.adaptive_average_pool(x, (2, 3)), ((2, 5, 6, 3),), (1, 2)),
    "maximum": (lambda x: pooling.adaptive_max_pool(x, (2, 3)), ((2, 5, 6, 3),), (1, 2)),
    "windows": (lambda x: pooling.max_pool(x, (2, 3), (1, 2)), ((2, 5, 6, 3),), (1, 2)),
    "blocks": (lambda x: pooling.average_pool(x, (2, 3)), ((2, 5, 6, 3),), (1, 2)),
    "frames": (lambda x: pooling.pool_frames(x, 3), ((2, 5, 6, 3),), (1,)),
    "largest frames": (lambda x: pooling.pool_frames(x, 3, "max"), ((2, 5, 6, 3),), (1,)),
    "heatmaps": (keypoints.decode_heatmaps, ((2, 5, 6, 3),), (1, 2)),
    "reflectors": (orthogonal_matrix, ((2, 4, 3),), ()),
    "retraction": (qr_retraction, ((2, 4, 4),), ()),
}
SEVERAL = [name for name, (_, shapes, _) in CALLS.items() if len(shapes) > 1]
every_function = pytest.mark.parametrize("name", CALLS)
several = pytest.mark.parametrize("name", SEVERAL)


def arrays(shapes, dtype=np.float32):
    return [np.zeros(shape, dtype) for shape in shapes]


def replaced(items, index, item):
    return [item if i == index else old for i, old in enumerate(items)]


@every_function
def test_what_is_no_floating_array_is_named(name):
    function, shapes, _ = CALLS[name]
    names = list(inspect.signature(function).parameters)
    for i, shape in enumerate(shapes):
        wrong = [np.zeros(shape, dtype) for dtype in (int, complex, bool, str)]
        for value in (None, [[1.0]], 3, "text", *wrong):
            with pytest.raises(TypeError, match=rf"{names[i]} (is|has dtype) .*; expected"):
                function(*replaced(arrays(shapes), i, value))


@every_function
def test_arrays_of_numpy_in_64_bits_are_taken_in_32(name):
    function, shapes, _ = CALLS[name]
    for dtype in (np.float32, np.float64):
        results = jax.eval_shape(lambda d=dtype: function(*arrays(shapes, d)))
        assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {np.dtype(np.float32)}


@every_function
def test_an_empty_batch_has_an_empty_result(name):
    function, shapes, _ = CALLS[name]
    full = jax.tree.leaves(jax.eval_shape(function, *arrays(shapes)))
    x = [jnp.zeros((0, *shape[1:])) for shape in shapes]
    for f in (function, jax.grad(lambda *x: jax.tree.leaves(function(*x))[-1].sum())):
        jax.eval_shape(f, *x)
    empty = jax.tree.leaves(jax.eval_shape(function, *x))
    assert [y.shape for y in empty] == [(0, *y.shape[1:]) for y in full]


@every_function
def test_an_empty_map_is_an_error(name):
    function, shapes, positions = CALLS[name]
    for axis in positions:
        empty = [tuple(replaced(shape, axis, 0)) for shape in shapes]
        if len(set(shapes)) > 1 and shapes[0][axis] != shapes[-1][axis]:
            empty = replaced(shapes, 0, empty[0])
        with pytest.raises(ValueError, match=r"shape|empty|expected"):
            function(*arrays(empty))


@several
def test_different_batches_are_not_broadcast(name):
    function, shapes, _ = CALLS[name]
    for i, shape in enumerate(shapes):
        for other in ((1, *shape[1:]), (3, *shape[1:]), shape[1:]):
            with pytest.raises(ValueError, match="have shapes"):
                function(*arrays(replaced(shapes, i, other)))


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith(("softmax", "dot"))])
def test_there_is_something_to_attend_to(name):
    function, shapes, _ = CALLS[name]
    none = [shapes[0], *((2, 0, shape[2]) for shape in shapes[1:])]
    with pytest.raises(ValueError, match="expected a position to attend to"):
        function(*arrays(none))
    queries = replaced(shapes, 0, (2, 0, 4))
    assert function(*arrays(queries)).shape[:2] == (2, 0)


def test_reflectors_are_applied_to_arrays_only():
    v, x = np.zeros((4, 2)), np.zeros((3, 4))
    for args in ((None, x), (v, None), (v, [[1.0]]), (v, np.zeros((3, 4), int))):
        with pytest.raises(TypeError, match=r"(reflectors|x) (is|has dtype)"):
            apply_reflectors(*args)
    assert apply_reflectors(v, np.zeros((0, 4))).shape == (0, 4)


@every_function
def test_no_promotion_of_dtypes_is_needed(name):
    function, shapes, _ = CALLS[name]
    for dtype in (jnp.bfloat16, np.float16, np.float32):
        x = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            jax.eval_shape(function, *x)
            jax.eval_shape(jax.grad(lambda *x: jax.tree.leaves(function(*x))[-1].sum()), *x)
