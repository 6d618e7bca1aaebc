"""The layer of deformable convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity_checks import PRECISIONS, check_parity

from spectral_flax.layers import ConvNormAct, DeformableConv, conv, fold_batch_norm


@pytest.mark.parametrize("x64", PRECISIONS)
def test_it_gives_the_published_numbers(x64):
    build = lambda **numerics: DeformableConv(16, 24, 3, rngs=nnx.Rngs(0), **numerics)
    check_parity("deformable_conv", build, x64=x64)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("options", [dict(strides=2), dict(kernel_dilation=2, use_bias=True)])
def test_a_new_one_is_a_convolution_and_with_factors_half_of_one(modulated, options):
    layer = DeformableConv(4, 6, 3, modulated=modulated, **options, rngs=nnx.Rngs(0))
    plain = conv(4, 6, 3, **options, rngs=nnx.Rngs(1))
    plain.kernel = layer.kernel
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 4))
    np.testing.assert_allclose(layer(x), plain(x) * (0.5 if modulated else 1), atol=1e-5)


def test_its_normalisation_folds():
    unit = ConvNormAct(4, 6, 3, layer=DeformableConv, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 4))
    unit(x)  # statistics that are not 0 and 1
    unit.eval()
    np.testing.assert_allclose(fold_batch_norm(unit)(x), unit(x), atol=1e-5)


def test_what_it_cannot_be_is_refused():
    for options in (dict(feature_group_count=2), dict(rank=3)):
        with pytest.raises(ValueError, match="deformable convolution has 2 and 1"):
            DeformableConv(4, 4, 3, **options, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="x has 3 channels"):
        DeformableConv(4, 4, 3, rngs=nnx.Rngs(0))(jnp.ones((1, 5, 5, 3)))
