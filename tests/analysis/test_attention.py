"""What attention blocks look at, by the laws of their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.analysis.attention import attention_maps, position_of, scale_to_bytes
from spectral_flax.functional.attention import criss_cross_weights
from spectral_flax.layers.attention import CrissCrossAttention, RecurrentCrissCross
from spectral_flax.layers.bilinear import bat, bat3d
from spectral_flax.layers.blocks import block
from spectral_flax.layers.non_local import NonLocal

MAP = 0.3 * jax.random.normal(jax.random.key(0), (2, 6, 7, 16))  # weights do not underflow
CLIP = jax.random.normal(jax.random.key(0), (1, 2, 6, 6, 16))


def made(build, *args, **options):
    layer = build(*args, rngs=nnx.Rngs(0), **options)
    layer.eval()
    return layer


@pytest.mark.parametrize("mode", ["embedded_gaussian", "concatenation"])
def test_the_maps_of_a_query_are_its_row_of_all_weights(mode):
    layer = made(NonLocal, 16, mode=mode)
    (found,) = attention_maps(layer, MAP, at=(4, 2)).values()
    assert found.position == (4, 2) and found.size == (6, 7)
    everything = jax.jit(layer.attention_maps)(MAP)
    np.testing.assert_allclose(found.weights["weights"], everything[:, 4, 2], atol=1e-6)


def test_a_query_in_a_clip_sees_all_frames():
    layer = made(NonLocal, 16, rank=3, sub_sample=True)
    (found,) = attention_maps(layer, CLIP, at=(0, 4, 2)).values()
    weights = found.weights["weights"]
    assert weights.shape == (1, 2, 3, 3) and found.position == (0, 4, 2)
    assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_weights_of_row_and_column_sum_to_one():
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 4, 5, 3))
    column, row = jax.jit(criss_cross_weights)(q, k)
    np.testing.assert_allclose(column.sum(-1) + row.sum(-1), 1, atol=1e-6)
    assert not np.einsum("nhwh->nhw", column).any()  # the pixel itself is in its row


@pytest.mark.parametrize("recurrences, seen", [(1, 6 + 7 - 1), (2, 6 * 7)])
def test_two_recurrences_see_the_whole_map(recurrences, seen):
    layer = made(RecurrentCrissCross, 16, recurrences=recurrences)
    maps = attention_maps(layer, MAP, at=(4, 2))
    assert list(maps) == [""]  # the attention within it counts for it
    weights = maps[""].weights["weights"]
    assert ((weights > 0).sum((1, 2)) == seen).all()
    np.testing.assert_allclose(weights.sum((1, 2)), 1, atol=1e-5)


def test_composed_weights_say_what_two_recurrences_compute():
    """Values that stay as they are: then the second map is the composed average of the first."""
    layer = made(CrissCrossAttention, 16)

    @jax.jit
    def both(x):
        # With gamma 0 both recurrences see the same map, and so have the same weights.
        weights = layer.query_maps(x, (4, 2), recurrences=2)["weights"]
        column, row = criss_cross_weights(layer.query(x), layer.key(x))
        y = x
        for _ in range(2):
            down = jnp.einsum("nhwg,ngwc->nhwc", column, y)
            y = down + jnp.einsum("nhwv,nhvc->nhwc", row, y)
        return jnp.einsum("nhw,nhwc->nc", weights, x), y[:, 4, 2]

    np.testing.assert_allclose(*both(MAP), atol=1e-5)


def test_what_descriptors_gather_sums_to_one():
    (found,) = attention_maps(made(block, "a2", 16), MAP, at=(4, 2)).values()
    assert list(found.weights) == ["weights", "1st descriptor", "2nd descriptor", "3rd descriptor"]
    for weights in found.weights.values():
        np.testing.assert_allclose(weights.sum((1, 2)), 1, atol=1e-5)


def test_bilinear_maps_are_the_re_projection():
    layer = made(bat, 16, grid=3, groups=2)
    x = MAP[:, :, :6]
    (found,) = attention_maps(layer, x).values()
    assert found.position is None and list(found.weights) == ["group 1", "group 2"]
    maps, of_one = jax.jit(lambda x: (layer.attention_maps(x), layer.query_maps(x, (4, 2))))(x)
    p, q = (np.kron(np.asarray(m[1, 1], np.float64), np.eye(2)) for m in (maps.p, maps.q))
    weights = p.T @ np.asarray(maps.activation[1, 1], np.float64) @ q.T
    np.testing.assert_allclose(found.weights["group 2"][1], weights, atol=1e-5)
    np.testing.assert_allclose(of_one["group 2"][1], np.outer(p[4], q[:, 2]), atol=1e-6)


def test_of_a_clip_every_frame_is_re_projected():
    layer = made(bat3d, 16, grid=3, groups=2, temporal_groups=1, temporal_grid=2)
    (found,) = attention_maps(layer, CLIP).values()
    assert {w.shape for w in found.weights.values()} == {(1, 2, 6, 6)}


@pytest.fixture(scope="module")
def network():
    small = dict(width=8, depths=(1, 2), num_classes=3)
    return sf.create_model("resnet18_nl", **small, blocks_at={1: (0,), 2: (1,)})


def test_blocks_of_a_network_are_found_by_name(network):
    images = jax.random.normal(jax.random.key(0), (1, 24, 32, 3))
    maps = attention_maps(network, images, at=(23, 0))
    assert {n: (m.position, m.size) for n, m in maps.items()} == {
        "stage1.1": ((5, 0), (6, 8)),
        "stage2.2": ((2, 0), (3, 4)),
    }
    with pytest.raises(ValueError, match=r"block='stage2.1'; closest: stage2\.2, stage1\.1"):
        attention_maps(network, images, block="stage2.1")
    for at in [(24, 0), (0, -1), (1, 2, 3)]:
        with pytest.raises(ValueError, match=r"expected y, x in 0 ... 23, 0 ... 31"):
            attention_maps(network, images, at=at)


def test_a_network_without_maps_is_told_which_have_them():
    model = sf.create_model("resnet18", width=4, depths=(1,), num_classes=2)
    message = "ResNet has no attention maps; networks with the blocks nl, a2, rcca, bat, bat3d have"
    with pytest.raises(ValueError, match=message):
        attention_maps(model, np.zeros((1, 8, 8, 3), np.float32))


def test_a_pixel_falls_on_a_position():
    assert position_of((0, 223), (224, 224), (14, 14)) == (0, 13)
    assert position_of((16, 15), (8, 224, 224), (4, 14, 14)) == (2, 1, 0)
    assert position_of(None, (224, 224), (14, 14)) == (7, 7)


def test_each_map_is_scaled_to_all_of_0_to_255():
    maps = np.random.default_rng(0).uniform(size=(2, 3, 5, 4)) * np.arange(1, 4)[:, None, None] - 7
    levels = scale_to_bytes(maps)
    assert levels.dtype == np.uint8
    assert (levels.min((-2, -1)) == 0).all() and (levels.max((-2, -1)) == 255).all()
    assert not scale_to_bytes(np.full((3, 3), 0.7)).any()
    with pytest.raises(ValueError, match="not all finite"):
        scale_to_bytes(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match=r"expected \[\.\.\., H, W\]"):
        scale_to_bytes(np.zeros(2))
