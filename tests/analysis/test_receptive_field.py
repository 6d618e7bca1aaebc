# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.analysis.receptive_field import half_energy_radius, receptive_field
from spectral_flax.layers import FFC, conv

IMAGES = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))


class Layers(nnx.Module):
    """Layers in a row, as a network with features."""

    def __init__(self, *layers):
        self.layers = nnx.List(layers)

    def features(self, x):
        maps = {}
        for i, layer in enumerate(self.layers):
            # Names in an order that is not that of the alphabet.
            maps[f"layer{len(self.layers) - i}"] = x = layer(x)
        return maps


def plain(*kernels):
    return Layers(*(conv(4, 4, k, rngs=nnx.Rngs(i)) for i, k in enumerate(kernels)))


def test_that_of_convolutions_is_their_window():
    field = receptive_field(plain(3, 5), IMAGES)
    assert field.shape == (16, 16) and field.sum() == pytest.approx(1)
    rows, columns = np.nonzero(field)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 11, 5, 11)
    first = receptive_field(plain(3, 5), IMAGES, layer="layer2", position=(2, 9))
    assert {tuple(p) for p in np.argwhere(first)} == {(r, c) for r in (1, 2, 3) for c in (8, 9, 10)}


def test_it_is_the_energy_of_the_jacobian():
    layer = conv(4, 4, 3, rngs=nnx.Rngs(0))
    field = receptive_field(Layers(layer), IMAGES, draws=400)
    kernel = np.square(np.asarray(layer.kernel[...])).sum((2, 3))
    np.testing.assert_allclose(field[7:10, 7:10], kernel / kernel.sum(), atol=0.03)


def test_a_fourier_convolution_sees_the_whole_image():
    ffc = FFC(4, 4, 3, ratio_in=1.0, ratio_out=1.0, lfu=False, rngs=nnx.Rngs(0))
    far = receptive_field(Layers(ffc), IMAGES)
    near = receptive_field(plain(3), IMAGES)
    assert (far > 0).mean() > 0.9 and (near > 0).sum() == 9


def test_of_a_clip_frames_have_fields_too():
    model = sf.create_model("c2d_resnet18", width=8, depths=(1,), num_classes=3)
    clips = jax.random.normal(jax.random.key(0), (1, 4, 16, 16, 3))
    field = receptive_field(model, clips, position=(1, 2, 2), draws=1)
    assert field.shape == (4, 16, 16)
    np.testing.assert_array_equal(field.sum((1, 2)) > 0, [False, True, False, False])


def test_the_radius_holds_half():
    field = np.zeros((9, 9))
    field[4, 4], field[4, 7] = 0.4, 0.6
    assert half_energy_radius(field) == 3 and half_energy_radius(field, (4, 7)) == 0
    assert half_energy_radius(np.stack([field, field])) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(layer="layer9"), "layer='layer9'; expected one of layer2, layer1"),
        (dict(position=(16, 0)), r"position=\(16, 0\); expected one of the map, \(16, 16\)"),
        (dict(position=(1,)), r"position=\(1,\)"),
    ],
)
def test_what_there_is_not_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        receptive_field(plain(3, 3), IMAGES, **given)
    with pytest.raises(ValueError, match="expected \\[H, W\\] of energies"):
        half_energy_radius(np.zeros((3, 3)))
