"""A config that brings its own model, small enough to train in tests."""

import jax.numpy as jnp
from flax import nnx

from spectral_flax.models.record import Card
from spectral_flax.models.registry import MODELS, Model
from train.config import Config, Data, Optimizer


class Toy(nnx.Module):
    """A strided convolution, batch normalisation, dropout and a head: every kind of state."""

    def __init__(self, num_classes, in_features, width, dropout, *, rngs):
        self.conv = nnx.Conv(in_features, width, (5, 5), strides=4, padding=0, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(6 * 6 * width, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(self.dropout(jnp.reshape(x, (len(x), -1))))


def toy(*, num_classes=10, in_features=1, width=4, dropout=0.2, rngs):
    return Toy(num_classes, in_features, width, dropout, rngs=rngs)


# In place of one that an earlier test entered.
MODELS["toy"] = Model(name="toy", function=toy, card=Card(paper=""))

config = Config(
    model="toy",
    batch_size=32,
    steps=12,
    save_every=4,
    log_every=2,
    eval_batch_size=200,
    data=Data(prefetch=2),
    optimizer=Optimizer(learning_rate=0.05, reference_batch=32),
)
