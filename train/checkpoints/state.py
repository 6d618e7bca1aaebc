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

    ``model_state`` is what a model holds besides parameters, such as running statistics;
    ``ema_params`` the exponential moving average of the parameters, empty where a run keeps none;
    ``skipped`` counts the steps that were undone.
    """

    step: jax.Array
    params: Leaves
    model_state: Leaves
    opt_state: Any
    key: jax.Array
    ema_params: Leaves
    skipped: jax.Array

    @property
    def eval_params(self) -> Leaves:
        """The parameters to evaluate: the averaged ones if there are any."""
        return self.ema_params or self.params


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The structure of a model: it makes a module of named leaves, and leaves of a module."""

    graphdef: nnx.GraphDef
    structures: tuple[Any, Any]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    keys: frozenset[str]

    def merge(self, params: Leaves, model_state: Leaves) -> nnx.Module:
        """Build a module that holds these leaves and shares no variable with any other."""
        model_state = {
            name: jax.random.wrap_key_data(leaf) if name in self.keys else leaf
            for name, leaf in model_state.items()
        }
        states = [
            jax.tree.unflatten(structure, [leaves[name] for name in names])
            for structure, names, leaves in zip(
                self.structures, self.names, (params, model_state), strict=True
            )
        ]
        return nnx.merge(self.graphdef, *states)

    def model_state(self, model: nnx.Module) -> Leaves:
        """Return what a forward pass may have changed: all but the parameters."""
        return _named(nnx.state(model, nnx.Not(nnx.Param)))


def split(model: nnx.Module) -> tuple[Network, Leaves, Leaves]:
    """Split a model into its structure, its parameters and its other state."""
    graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
    names = tuple(tuple(_names(state)) for state in (params, model_state))
    typed = zip(names[1], jax.tree.leaves(model_state), strict=True)
    keys = frozenset(n for n, a in typed if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key))
    structures = jax.tree.structure(params), jax.tree.structure(model_state)
    network = Network(graphdef, structures, names, keys)
    return network, _named(params), _named(model_state)


def model_options(config: Config, task: Task) -> dict[str, Any]:
    """Return the options of the model: those of the config, and those that the data demand.

    Raises:
      UserError: they contradict one another.
    """
    for name, demanded in task.model_options.items():
        given = config.options.get(name, demanded)
        if given != demanded:
            raise UserError(
                f"--options.{name} is {given}; the data set {config.data.name!r} needs {demanded}"
            )
    numerics = {} if config.dtype == "float32" else {"dtype": jnp.dtype(config.dtype)}
    return task.model_options | config.options | numerics


def make_model(config: Config, task: Task) -> nnx.Module:
    """Build the model of ``config``, ready to train; random weights follow from the seed."""
    options = model_options(config, task)
    try:
        model = sf.create_model(config.model, **options, rngs=nnx.Rngs(config.seed))
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot build the model {config.model!r}: {error}") from error
    model = task.extended(model, nnx.Rngs(config.seed + 1))
    model.train()
    return model


def make_state(
    config: Config, params: Leaves, model_state: Leaves, tx: optax.GradientTransformation
) -> TrainState:
    """Return the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
        key=jax.random.key_data(jax.random.fold_in(jax.random.key(config.seed), 1)),
        # Copies, since a step consumes its state, of which no array may stand in two places.
        ema_params=jax.tree.map(jnp.copy, params) if config.ema_decay else {},
        skipped=jnp.zeros((), jnp.int32),
    )


def state_groups(state: TrainState) -> dict[str, Leaves]:
    """Return the leaves of a training state by name, in the groups of a checkpoint.

    On disk the model state is "rest" and the averaged parameters are "average".
    """
    return {
        "params": state.params,
        "rest": state.model_state,
        "optimizer": named_leaves(_of_optimizer(state)),
        "average": state.ema_params,
    }


def state_of_groups(template: TrainState, groups: dict[str, Leaves]) -> TrainState:
    """Return the state that restored groups make up, in the structure of ``template``."""
    tree = _of_optimizer(template)
    leaves = [groups["optimizer"][name] for name in named_leaves(tree)]
    tree = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return TrainState(
        step=tree["step"],
        params=groups["params"],
        model_state=groups["rest"],
        opt_state=tree["state"],
        key=tree["key"],
        ema_params=groups["average"],
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
