"""Laws of every class of model as an object and at its boundary; nothing is compiled."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.models.inpainting import PatchDiscriminator

SMALL = dict(depths=(1, 1, 1), width=8, num_classes=3)
# Of two widths, so that no map can be taken for another.
POSE = dict(depths=(1, 1, 1), encoder_width=8, decoder_width=16, num_joints=3, input_size=(32, 32))
MODELS = {
    "resnet26": (SMALL | dict(se=True, width=16), (64, 64, 3)),
    "ffc_resnet26": (SMALL | dict(ratio=0.5, width=16), (64, 64, 3)),
    "i3d_resnet18_bat3d": (
        SMALL | dict(depths=(1, 2, 2), input_size=(4, 64, 64), width=16),
        (4, 64, 64, 3),
    ),
    "pose_resnet18_srl_fft": (POSE | dict(block_options=dict(groups=2)), (32, 32, 3)),
    "unet_star_rcca": (dict(width=4, input_size=(32, 32)), (32, 32, 3)),
    "lama": (dict(width=8, blocks=1), (32, 32, 4)),
    "discriminator": (dict(width=8, layers=2), (32, 32, 3)),
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name, **options):
    options = MODELS[name][0] | options | dict(rngs=nnx.Rngs(0))
    if name == "discriminator":
        return PatchDiscriminator(**options)
    return sf.create_model(name, **options)


def shape(name, batch=2):
    return batch, *MODELS[name][1]


def outcome(model, x, train=False):
    """The shape and dtype of what the model returns; in training traced with its gradient."""
    mode = dict(use_running_average=not train, deterministic=not train)
    graphdef, params, rest = nnx.split(
        nnx.view(model, raise_if_not_found=False, **mode), nnx.Param, ...
    )

    def loss(params, rest):
        y = nnx.merge(graphdef, params, rest, copy=True)(x)
        return jnp.sum(y.astype(np.float32)), y

    return jax.eval_shape(jax.grad(loss, has_aux=True) if train else loss, params, rest)[1]


@functools.cache
def made(name):
    model = build(name)
    return model, outcome(model, jnp.zeros(shape(name)))


@every_model
def test_it_is_tabulated_and_every_module_works_afterwards(name):
    model, wanted = made(name)
    x = jnp.zeros(shape(name))
    assert type(model).__name__ in nnx.tabulate(model, x)
    assert outcome(model, x) == wanted


@every_model
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_it_is_copied_and_pickled_with_all_its_values(name, again):
    model, _ = made(name)
    other = again(model)
    assert jax.tree.structure(nnx.state(other)) == jax.tree.structure(nnx.state(model))
    pairs = zip(jax.tree.leaves(nnx.state(other)), jax.tree.leaves(nnx.state(model)), strict=True)
    for ours, theirs in pairs:
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)
    assert nnx.graphdef(other) == nnx.graphdef(model)


@every_model
@pytest.mark.parametrize("numerics", [dict(dtype=jnp.bfloat16), dict(param_dtype=jnp.bfloat16)])
def test_in_bfloat16_it_needs_no_promotion_of_dtypes(name, numerics):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        model = nnx.eval_shape(lambda: build(name, **numerics))
        y = outcome(model, jnp.zeros(shape(name), jnp.bfloat16), train=True)
    assert y.dtype == jnp.bfloat16


@every_model
@pytest.mark.parametrize(
    "x, message",
    [
        (None, "x is None"),
        ([[0.0]], "x is of type list"),
        (3, "x is of type int"),
        ("cat.png", "x is of type str"),
        (np.uint8, "x has dtype uint8; expected a real floating dtype"),
        (bool, "x has dtype bool"),
        (np.complex64, "x has dtype complex64"),
    ],
)
def test_what_is_no_floating_array_is_named(name, x, message):
    x = np.zeros(shape(name), x) if isinstance(x, type) else x
    with pytest.raises(TypeError, match=message):
        made(name)[0](x)


@every_model
def test_arrays_of_numpy_in_64_bits_are_taken_in_32(name):
    model, wanted = made(name)
    assert outcome(model, np.zeros(shape(name))) == wanted
    assert wanted.dtype == np.float32


@every_model
def test_an_empty_batch_has_an_empty_result(name):
    model, wanted = made(name)
    y = outcome(model, jnp.zeros(shape(name, 0)), train=True)
    assert (y.shape, y.dtype) == ((0, *wanted.shape[1:]), wanted.dtype)
