# SPDX-License-Identifier: Apache-2.0
"""Models for programs that are not written in NNX: pure functions, variables, a Linen module."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen, nnx
from flax.core import FrozenDict, unfreeze

from spectral_flax.checkpoints.weights import assign
from spectral_flax.models.registry import abstract_model, create_model

Variables = Mapping[str, Any]
"""``{"params": …, "batch_stats": …}``: nested dicts of arrays, by the names of the modules."""


class Apply(Protocol):
    """What `init_apply` returns second."""

    def __call__(
        self,
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        method: str = "__call__",
    ) -> tuple[Any, Variables]:
        """Return the model's output and the variables."""


def init_apply(
    name: str, *, view: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Callable[[jax.Array], dict[str, Any]], Apply]:
    """Return the model ``name`` as two pure functions, ``init`` and ``apply``.

    ``init(key)`` returns ``{"params": …, "batch_stats": …}``, nested dicts of arrays.
    ``apply(variables, x, *, train=False, rng=None, method="__call__")`` returns the model's output,
    or with ``method="features"`` its maps by name, and the variables with batch statistics updated
    (the same ones when not training). ``rng`` drives dropout, where the model has it. Both can be
    jitted, mapped and differentiated. `get_variables` gives those of a model with weights.

    ``view`` is what ``nnx.view`` sets in a model: ``{"remat": True}``, ``{"axis_name": "data"}``
    for batch statistics of all devices inside ``shard_map``, …

    Raises:
      ValueError: no such model or nothing to view so; of ``apply``: a variable is missing or has
        another shape, or dropout has no ``rng``.
      TypeError: no such option.
    """
    init, apply, _ = _pure(name, view or {}, options)
    return init, apply


def _pure(
    name: str, view: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Callable[[jax.Array], dict[str, Any]], Apply, bool]:
    """Return `init_apply` of a model, and whether it draws random numbers in training."""
    model = abstract_model(name, **options)
    graphdef, abstract = nnx.split(nnx.view(model, **view) if view else model)
    paths = nnx.to_flat_state(abstract)

    def init(key: jax.Array) -> dict[str, Any]:
        return get_variables(create_model(name, rngs=nnx.Rngs(_typed(key)), **options))

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        method: str = "__call__",
    ) -> tuple[Any, Variables]:
        leaves: list[jax.Array] = []
        for path, variable in paths:
            if isinstance(variable, nnx.RngState):
                leaves.append(_rng_leaf(variable, rng, train, name, len(leaves)))
            else:
                leaves.append(_found(variables, path, variable, name))
        state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
        model = nnx.merge(graphdef, state, copy=True)
        mode = dict(use_running_average=not train, deterministic=not train)
        model = nnx.view(model, raise_if_not_found=False, **mode)
        y = getattr(model, method)(x)
        return y, get_variables(model) if train else variables

    return init, apply, any(isinstance(variable, nnx.RngState) for _, variable in paths)


def get_variables(model: nnx.Module) -> dict[str, Any]:
    """Return parameters and batch statistics of ``model``, as `init_apply` has them.

    Nested dicts ``{"params": …, "batch_stats": …}`` of the model's own arrays; the state of random
    number generators is left out.
    """
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if isinstance(variable, nnx.RngState):
            continue
        branch = tree[_collection(variable)]
        for part in path[:-1]:
            branch = branch.setdefault(str(part), {})
        branch[str(path[-1])] = variable[...]
    return tree


def set_variables(model: nnx.Module, variables: Variables) -> None:
    """Fill ``model``, in place, with variables as `get_variables` returns them.

    They are converted to the dtypes of the model. What else a Linen program keeps beside ``params``
    and ``batch_stats`` is an error.

    Raises:
      ValueError: there are other collections.
      CheckpointError: variables are missing, left over, mis-shaped or not finite; the model stays
        as it was.
    """
    known = ("params", "batch_stats")
    for collection in variables:
        if collection not in known:
            raise ValueError(f"variables have the collection {collection!r}; expected {known}")
    flat: dict[str, Any] = {}
    for collection in variables.values():
        _flatten(collection, (), flat)
    assign(model, flat)


class LinenModel(linen.Module):
    """A model of this library as a module of Flax Linen, whose variables are those of `init_apply`.

    ``__call__(x, train=False)`` returns the output, ``features(x, train=False)`` the maps by name
    (``apply(..., method="features")``). Training updates the collection ``batch_stats``, which is
    then mutable, and draws from the stream ``dropout`` where the model has dropout. Weights are
    drawn from ``params``; ``init`` runs the model without training.

    Attributes:
      model: its name.
      options: its options.
      view: as in `init_apply`.
    """

    model: str
    options: Mapping[str, Any] = FrozenDict()
    view: Mapping[str, Any] = FrozenDict()

    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        return self._run("__call__", x, train)

    def features(self, x: jax.Array, train: bool = False) -> Any:
        return self._run("features", x, train)

    def _run(self, method: str, x: jax.Array, train: bool) -> Any:
        init, apply, draws = _functions(self.model, self.options, self.view)
        train = train and not self.is_initializing()
        if self.is_initializing() and not self.variables.get("params"):
            self._store(init(self.make_rng("params")))
        rng = self.make_rng("dropout") if train and draws else None
        y, updated = apply(self.variables, x, train=train, rng=rng, method=method)
        if train:
            self._store({"batch_stats": updated["batch_stats"]})
        return y

    def _store(self, variables: Variables) -> None:
        for collection, tree in variables.items():
            for name, value in tree.items():
                self.put_variable(collection, name, value)


def to_linen(name: str, *, view: Mapping[str, Any] | None = None, **options: Any) -> LinenModel:
    """Return the model ``name`` as a Linen module; ``options`` are those of `create_model`.

    It stands on its own or in another Linen module, inside ``jit``, ``grad`` and ``nn.vmap``.
    `get_variables` and `set_variables` carry weights to it and back.

    Raises:
      ValueError: no such model, an option has an impossible value, or nothing to view so.
      TypeError: no such option, or one that cannot be hashed.
    """
    module = LinenModel(name, _hashable(options), _hashable(view or {}))
    _functions(name, module.options, module.view)  # whatever is wrong with them is told here
    return module


@functools.lru_cache(maxsize=64)
def _functions(name: str, options: FrozenDict, view: FrozenDict):
    """Return `_pure` of a model, made once however often a Linen module is traced."""
    return _pure(name, unfreeze(view), unfreeze(options))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenDict({key: _hashable(item) for key, item in value.items()})
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _flatten(tree: Any, path: tuple[str, ...], flat: dict[str, Any]) -> None:
    """Add the arrays of nested dicts to ``flat`` by their dotted paths."""
    if isinstance(tree, Mapping):
        for name, branch in tree.items():
            _flatten(branch, (*path, str(name)), flat)
    else:
        flat[".".join(path)] = tree


def _collection(variable: nnx.Variable) -> str:
    return "params" if isinstance(variable, nnx.Param) else "batch_stats"


def _found(variables: Variables, path: tuple, variable: nnx.Variable, name: str) -> Any:
    """Return the variable at a path, of which shape the model wants it."""
    value: Any = variables
    parts = (_collection(variable), *map(str, path))
    for part in parts:
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"the variables of {name} lack {'/'.join(parts)}")
        value = value[part]
    if jnp.shape(value) != variable.shape:
        shapes = f"has shape {jnp.shape(value)}; {name} takes {variable.shape}"
        raise ValueError(f"{'/'.join(parts)} {shapes}")
    return value


def _typed(key: jax.Array) -> jax.Array:
    """Return a key of the new kind, also for one of ``jax.random.PRNGKey``."""
    known = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if known else jax.random.wrap_key_data(key)


def _rng_leaf(
    variable: nnx.Variable, rng: jax.Array | None, train: bool, name: str, index: int
) -> jax.Array:
    if isinstance(variable, nnx.RngCount):
        return jnp.zeros((), variable.dtype)
    if rng is None and train:
        raise ValueError(f"{name} draws random numbers in training; apply needs rng=, a key")
    return jax.random.fold_in(jax.random.key(0) if rng is None else _typed(rng), index)
