"""A user's program, for a type checker alone: what the public names take and return."""

from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import spectral_flax as sf
from spectral_flax.checkpoints.weights import Weights

assert_type(sf.list_models("ffc_*", task="classification"), list[str])
model = sf.create_model("resnet18", num_classes=3, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
assert_type(model, nnx.Module)
assert_type(sf.load("runs/digits"), nnx.Module)
assert_type(sf.evaluation_mode(model), nnx.Module)
assert_type(sf.read_weights("model.safetensors"), Weights)
sf.save(model, "model.safetensors", overwrite=True)
x = jnp.ones((1, 32, 32, 3))

init, apply = sf.init_apply("resnet18", num_classes=3)
variables = init(jax.random.key(0))
assert_type(variables, dict[str, Any])
y, updated = apply(variables, x, train=True, rng=jax.random.key(1))
module = sf.to_linen("resnet18", num_classes=3)
assert_type(module, sf.LinenModel)
parent: linen.Module = module
sf.set_variables(model, sf.get_variables(model))

assert_type(sf.prepare("photo.jpg", model), np.ndarray)
assert_type(sf.inpaint(model, np.zeros((8, 8, 3)), np.zeros((8, 8))), np.ndarray)
assert_type(sf.card("resnet18"), sf.Card)
assert_type(sf.functional.rfft2(x), jax.Array)


class Block(nnx.Module):
    """Layers of the library in a network of one's own."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv = sf.layers.FFC(features, features, (3, 3), 2, kernel_dilation=1, rngs=rngs)
        self.plain = sf.layers.conv(features, features, 3, 1, padding="SAME", rngs=rngs)
        self.norm = sf.layers.BatchNorm(features, rngs=rngs)
        self.linear = sf.layers.linear(features, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        assert_type(self.conv(x), jax.Array)
        return self.linear(nnx.relu(self.norm(self.plain(self.conv(x)))))


assert_type(Block(16, rngs=nnx.Rngs(0))(x), jax.Array)
assert_type(model(x), Any)
