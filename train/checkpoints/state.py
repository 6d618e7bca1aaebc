# SPDX-License-Identifier: Apache-2.0
"""The state of a run as flat dictionaries of arrays, keyed by dotted names.

Flat, because a nested tree of module states costs milliseconds of Python at each dispatch; by
name, because names are what checkpoints, weight decay and error messages speak of.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import spectral_flax as sf
from train.config import Config
from train.errors import UserError
from train.task import Task

Leaves = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything that a step reads and writes.

    ``average`` is the exponential average of the parameters, empty where a run keeps none;
    ``skipped`` counts the steps that were undone.
    """

    step: jax.Array
    params: Leaves
    rest: Leaves
    opt_state: Any
    key: jax.Array
    average: Leaves
    skipped: jax.Array

    @property
    def evaluated(self) -> Leaves:
        """The parameters to judge the run by: the averaged ones if there are any."""
        return self.average or self.params


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A model without its arrays: what turns named leaves into a module and back."""

    graphdef: nnx.GraphDef
    structures: tuple[Any, Any]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    keys: frozenset[str]

    def merge(self, params: Leaves, rest: Leaves) -> nnx.Module:
        """Build a module that holds these leaves and shares no variable with any other."""
        rest = {n: jax.random.wrap_key_data(a) if n in self.keys else a for n, a in rest.items()}
        states = [
            jax.tree.unflatten(structure, [leaves[name] for name in names])
            for structure, names, leaves in zip(
                self.structures, self.names, (params, rest), strict=True
            )
        ]
        return nnx.merge(self.graphdef, *states)

    def rest(self, model: nnx.Module) -> Leaves:
        """Return what a forward pass may have changed: all but the parameters."""
        return _named(nnx.state(model, nnx.Not(nnx.Param)))


def split(model: nnx.Module) -> tuple[Network, Leaves, Leaves]:
    """Take a model apart: its structure, its parameters, and the rest of its state."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    names = tuple(tuple(_names(state)) for state in (params, rest))
    typed = zip(names[1], jax.tree.leaves(rest), strict=True)
    keys = frozenset(n for n, a in typed if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key))
    network = Network(graphdef, (jax.tree.structure(params), jax.tree.structure(rest)), names, keys)
    return network, _named(params), _named(rest)


def make_model(config: Config, task: Task) -> nnx.Module:
    """Build the model of ``config``, ready to train; random weights follow from the seed."""
    for name, demanded in task.model_options.items():
        given = config.options.get(name, demanded)
        if given != demanded:
            raise UserError(
                f"--options.{name} is {given}; the data set {config.data.name!r} needs {demanded}"
            )
    numerics = {} if config.dtype == "float32" else {"dtype": jnp.dtype(config.dtype)}
    options = task.model_options | config.options | numerics
    try:
        model = sf.create_model(config.model, **options, rngs=nnx.Rngs(config.seed))
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot build the model {config.model!r}: {error}") from error
    model = task.extended(model, nnx.Rngs(config.seed + 1))
    model.train()
    return model


def make_state(config: Config, params: Leaves, rest: Leaves, tx: optax.GradientTransformation):
    """Return the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        opt_state=tx.init(params),
        key=jax.random.key_data(jax.random.fold_in(jax.random.key(config.seed), 1)),
        # Copies, since a step consumes its state, of which no array may stand in two places.
        average=jax.tree.map(jnp.copy, params) if config.average else {},
        skipped=jnp.zeros((), jnp.int32),
    )


def like_state(state: TrainState) -> dict[str, Leaves]:
    """Name the leaves of a whole training state by group, as they are stored."""
    return {
        "params": state.params,
        "rest": state.rest,
        "optimizer": named_leaves(_of_optimizer(state)),
        "average": state.average,
    }


def to_state(like: TrainState, groups: dict[str, Leaves]) -> TrainState:
    """Put restored groups back in the shape of ``like``."""
    tree = _of_optimizer(like)
    leaves = [groups["optimizer"][name] for name in named_leaves(tree)]
    tree = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return TrainState(
        step=tree["step"],
        params=groups["params"],
        rest=groups["rest"],
        opt_state=tree["state"],
        key=tree["key"],
        average=groups["average"],
        skipped=tree["skipped"],
    )


def _of_optimizer(state: TrainState) -> dict[str, Any]:
    """Return what a run needs besides the model in order to go on."""
    return {
        "state": state.opt_state,
        "step": state.step,
        "key": state.key,
        "skipped": state.skipped,
    }


def named_leaves(tree: Any) -> Leaves:
    """Return the leaves of any tree by the dotted names of their places."""
    return dict(zip(_names(tree), jax.tree.leaves(tree), strict=True))


def _named(state: nnx.State) -> Leaves:
    return {name: _raw(leaf) for name, leaf in named_leaves(state).items()}


def _names(tree: Any) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    if isinstance(tree, nnx.State):  # the last entry is the variable's own ".value"
        paths = [path[:-1] for path in paths]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]


def _raw(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
