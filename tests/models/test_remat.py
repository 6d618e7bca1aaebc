"""Rematerialised models compute the same, with a checkpoint around each of their blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf

SMALL = dict(width=8, depths=(1, 1), stem="small", num_classes=3)
BAT = dict(blocks_at={2: (0,)}, block_options={"dropout": 0.2})
POSE = dict(encoder_width=8, decoder_width=8, depths=(1, 1), deconvolutions=1)
MODELS = {  # name: options, channels of the input, blocks
    "resnet18_bat": (SMALL | BAT, 3, 3),
    "lama": (dict(width=8, blocks=1), 4, 1),
    "unet_star_srl_fft": (dict(width=4, input_size=(32, 32)), 3, 10),
    "pose_resnet18_srl_fft": (POSE | dict(input_size=(32, 32)), 3, 4),
}


def objective(name, remat):
    """Return a loss of the parameters and statistics, and the parameters."""
    options, channels, _ = MODELS[name]
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, channels))
    model = nnx.view(sf.create_model(name, rngs=nnx.Rngs(0), **options), remat=remat)
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return jnp.square(merged(x)).mean(), nnx.state(merged, nnx.BatchStat)

    return loss, params


@pytest.mark.parametrize("name", MODELS)
def test_each_block_has_a_checkpoint(name):
    for remat, expected in ((False, 0), (True, MODELS[name][2])):
        loss, params = objective(name, remat)
        kinds = [equation.primitive.name for equation in jax.make_jaxpr(loss)(params).eqns]
        assert sum(kind in ("remat", "remat2", "checkpoint") for kind in kinds) == expected


@pytest.mark.parametrize("name", ["resnet18_bat", "lama"])
def test_gradients_and_statistics_are_the_same(name):
    found = []
    for remat in (False, True):
        loss, params = objective(name, remat)
        found.append(jax.tree.leaves(jax.jit(jax.grad(loss, has_aux=True))(params)))
    for a, b in zip(*found, strict=True):
        scale = max(float(jnp.abs(a).max()), 1e-3)
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5 * scale)


def test_a_model_without_blocks_to_forget_says_so():
    with pytest.raises(ValueError, match="remat"):
        nnx.view(sf.layers.FourierUnit(4, 4, rngs=nnx.Rngs(0)), remat=True)
