# SPDX-License-Identifier: Apache-2.0
import jax.numpy as jnp
import numpy as np
import pytest
from applied import apply
from flax import nnx

import spectral_flax as sf
from spectral_flax.layers import BatchNorm, ConvNormAct, conv

SMALL = dict(width=8, depths=(1, 1), num_classes=5)
IMAGE, VIDEO = (2, 32, 32, 3), (1, 4, 32, 32, 3)
FFC = dict(ratio=0.5, lfu=False)
MODELS = {
    "resnet50": (SMALL, IMAGE),
    "ffc_resnet50": (SMALL | dict(ratio=0.5, lfu=True, width=16), IMAGE),
    "ffc_resnet18": (SMALL | FFC | dict(global_to_local=False), IMAGE),
    "ffc_resnext50_32x4d": (FFC | dict(depths=(1, 1), num_classes=5), IMAGE),
    "resnet50_bat": (SMALL | dict(blocks_at={2: (0,)}), (2, 64, 64, 3)),
    "resnet50_nl": (SMALL | dict(blocks_at={2: (0,)}), IMAGE),
    "resnet50_glore": (SMALL | dict(blocks_at={2: (0,)}), IMAGE),
    "resnet50_srl_fft": (SMALL | dict(blocks_at={2: (0,)}, input_size=(32, 32)), IMAGE),
    "i3d_resnet50": (SMALL, VIDEO),
    "pose_resnet50": (
        dict(encoder_width=8, depths=(1, 1, 1, 1), decoder_width=8, num_joints=3),
        (1, 64, 64, 3),
    ),
}


def perturbed(model):
    """Give every parameter and statistic a value of its own, so that nothing folds by chance."""
    rng = np.random.default_rng(0)
    for path, value in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        if jnp.ndim(value[...]) <= 1:
            drawn = rng.uniform(0.5, 1.5, np.shape(value[...]))
            value[...] = jnp.asarray(drawn if path[-1] != "mean" else drawn - 1, value[...].dtype)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_folded_model_computes_the_same_without_normalisation(name):
    options, shape = MODELS[name]
    model = perturbed(sf.create_model(name, rngs=nnx.Rngs(0), **options))
    folded = sf.fold_batch_norm(model)
    assert not any(isinstance(m, BatchNorm) for _, m in nnx.iter_modules(folded))
    x = jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)
    model.eval()
    wanted = apply(model, x)
    np.testing.assert_allclose(apply(folded, x), wanted, atol=2e-5 * float(jnp.abs(wanted).max()))


def test_the_model_itself_stays_as_it_is():
    layer = perturbed(ConvNormAct(3, 4, 3, rngs=nnx.Rngs(0)))
    before = nnx.to_flat_state(nnx.state(layer))
    sf.fold_batch_norm(layer)
    assert isinstance(layer.norm, BatchNorm) and not layer.norm.use_running_average
    for (path, a), (same, b) in zip(before, nnx.to_flat_state(nnx.state(layer)), strict=True):
        assert path == same
        np.testing.assert_array_equal(a[...], b[...])


class NormFirst(nnx.Module):
    def __init__(self, rngs):
        self.norm = BatchNorm(3)
        self.conv = conv(3, 4, rngs=rngs)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NormFirst, "normalisation norm cannot be folded"),
        (lambda rngs: conv(3, 4, rngs=rngs), "Conv has no batch normalisation"),
        (
            lambda rngs: ConvNormAct(
                3, 4, layer=lambda i, o, k, **options: NormFirst(options["rngs"]), rngs=rngs
            ),
            "into a NormFirst",
        ),
    ],
    ids=["before a convolution", "none", "unknown layer"],
)
def test_what_cannot_be_folded_is_an_error(model, message):
    with pytest.raises(ValueError, match=message):
        sf.fold_batch_norm(model(rngs=nnx.Rngs(0)))
