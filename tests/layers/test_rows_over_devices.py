"""Layers on maps whose rows lie on a mesh axis: those of one device, and no map gathered."""

import pytest
from flax import nnx
from rows_over_devices import check_layer

from spectral_flax.kernels.convolution import whole_maps
from spectral_flax.layers import (
    FFC,
    CompactNonLocal,
    DoubleAttention,
    GraphReasoning,
    NonLocal,
    RecurrentCrissCross,
    bat,
    srl_fft,
    srl_lo,
)

EVEN, UNEVEN = (4, 8, 12, 16), (2, 7, 10, 16)
SIX = (2, 12, 12, 16)  # blocks of two rows, which four devices do not share evenly


@pytest.fixture(autouse=True)
def convolutions_of_accelerators():
    """The forms that the CPU gets gather the gradients of maps of a row a device."""
    with whole_maps(False):
        yield


@pytest.mark.parametrize("shape", [UNEVEN, SIX], ids=str)
def test_fast_fourier_convolution(shape):
    check_layer(FFC(16, 16, ratio_in=0.5, ratio_out=1.0, strides=2, rngs=nnx.Rngs(0)), *shape)


REFLECTED = {
    "both paths": (dict(kernel_size=3), UNEVEN),
    "one path": (dict(kernel_size=3, ratio_in=0, ratio_out=0), EVEN),
    "groups": (dict(kernel_size=4, strides=2, padding=1, feature_group_count=2), EVEN),
    "a video": (dict(kernel_size=3, rank=3), (2, 3, 8, 6, 16)),
}


@pytest.mark.parametrize("name", REFLECTED)
def test_reflected_rows_are_those_of_neighbours(name):
    options, shape = REFLECTED[name]
    options = dict(lfu=False, use_bias=True, padding_mode="reflect") | options
    check_layer(FFC(16, 16, rngs=nnx.Rngs(0), **options), *shape)


def test_fourier_units_exchange_in_their_transforms_alone():
    found = check_layer(FFC(8, 16, rngs=nnx.Rngs(0)), *EVEN[:3], 8)
    assert found["all-to-all"].count == 8  # of two units, there and back, and of the gradients


def test_spectral_residual_block_moves_a_map_twice():
    layer = srl_fft(16, groups=2, gate_init=0.5, rngs=nnx.Rngs(0))
    assert check_layer(layer, *UNEVEN)["all-to-all"].count == 4


def test_learned_orthogonal_block_moves_a_map_twice():
    layer = srl_lo(16, size=(8, 12), rngs=nnx.Rngs(0))
    assert check_layer(layer, *EVEN)["all-to-all"].count == 4


def test_bilinear_attention_gathers_what_is_pooled():
    check_layer(bat(16, grid=3, dropout=0.0, rngs=nnx.Rngs(0)), *SIX, strips=True)


ATTENTION = {
    "A2": lambda rngs: DoubleAttention(16, rngs=rngs),
    "RCCA": lambda rngs: RecurrentCrissCross(16, rngs=rngs),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_that_needs_no_pairs_of_positions(name):
    check_layer(ATTENTION[name](nnx.Rngs(0)), *EVEN)


NON_LOCAL = [
    ("embedded_gaussian", EVEN, False),
    ("embedded_gaussian", UNEVEN, False),
    ("gaussian", (2, 2, 8, 6, 16), True),
    ("embedded_gaussian", (2, 10, 9, 16), True),
    ("concatenation", UNEVEN, False),
]


@pytest.mark.parametrize(("mode", "shape", "sub_sample"), NON_LOCAL, ids=str)
def test_keys_and_values_of_non_local_attention_go_round(mode, shape, sub_sample):
    options = dict(rank=len(shape) - 2, mode=mode, sub_sample=sub_sample)
    found = check_layer(NonLocal(16, rngs=nnx.Rngs(0), **options), *shape)
    # Keys and values three times in each pass; their gradients once more, to come home.
    assert found["collective-permute"].count >= 2 * (3 * 2) + 4 * 2


def test_a_dot_product_is_a_sum_over_positions():
    found = check_layer(NonLocal(16, mode="dot_product", rngs=nnx.Rngs(0)), *EVEN)
    assert set(found) == {"all-reduce"}


def test_a_graph_is_gathered_by_sums_over_positions():
    assert set(check_layer(GraphReasoning(16, rngs=nnx.Rngs(0)), *EVEN)) == {"all-reduce"}


@pytest.mark.parametrize("gamma", [None, 0.1])
def test_compact_attention_is_a_sum_over_positions(gamma):
    layer = CompactNonLocal(16, groups=4, gamma=gamma, rngs=nnx.Rngs(0))
    assert set(check_layer(layer, *EVEN)) == {"all-reduce"}
