# SPDX-License-Identifier: Apache-2.0
"""Models by name: building, listing, and what a user must know of each."""

import dataclasses
import fnmatch
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from spectral_flax.layers.numerics import parameters_of
from spectral_flax.messages import closest
from spectral_flax.models.record import Card, ModelRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A name of the zoo: a function, or class, with some of its options fixed.

    Attributes:
      function: builds the model; takes its options and ``rngs`` by keyword.
      title: what it is, in a line.
      family: names that differ in size, block and the like alone have the same.
      task: "classification", "pose", "segmentation" or "inpainting"; "" for others.
      block: the block of `layers.blocks.BLOCKS` in it.
      rank: 2 for images, 3 for videos.
      ffc: whether its convolutions are FFCs.
      fixed: options that are not open.
      defaults: options with another default than the function's.
    """

    name: str
    function: Callable[..., nnx.Module]
    card: Card
    title: str = ""
    family: str = ""
    task: str = ""
    block: str | None = None
    rank: int = 2
    ffc: bool = False
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The open options by name, with their defaults."""
        return {
            name: p.replace(default=self.defaults[name]) if name in self.defaults else p
            for name, p in parameters_of(self.function).items()
            if name not in self.fixed and name != "rngs"
        }

    def __call__(self, *, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
        known = self.options if options else {}
        for option in options:
            if option not in known:
                near = closest(option, known)
                raise TypeError(f"{self.name} has no option {option!r}; {near}")
        return self.function(**self.fixed, **{**self.defaults, **options}, rngs=rngs)


MODELS: dict[str, Model] = {}


def add(model: Model) -> None:
    """Add a model to the zoo.

    Raises:
      ValueError: its name is taken.
    """
    if model.name in MODELS:
        raise ValueError(f"a model named {model.name!r} is registered already")
    MODELS[model.name] = model


def register(card: Card, **about: Any):
    """Return a decorator that adds a function under its own name; ``about`` as in `Model`."""

    def enter(function):
        title = (function.__doc__ or function.__name__).partition("\n")[0]
        name = function.__name__
        fields = dict(name=name, function=function, card=card, title=title, family=name)
        add(Model(**fields | about))
        return function

    return enter


def list_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    task: str | None = None,
    block: str | None = None,
    rank: int | None = None,
    ffc: bool | None = None,
    published: bool | None = None,
) -> list[str]:
    """Return the sorted names that match a glob pattern and all filters that are given.

    ``published`` is whether the paper's result is on the card; the others as in `Model`.

    Raises:
      ValueError: no model has that family, task, block or rank, or ``published`` is no boolean; the
        message names the known.
    """
    given = dict(family=family, task=task, block=block, rank=rank, ffc=ffc)
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        known = sorted({v for m in MODELS.values() if (v := getattr(m, name)) not in (None, "")})
        if value not in known:
            raise ValueError(f"{name}={value!r}; expected one of {', '.join(map(repr, known))}")
    if published not in (None, False, True):
        raise ValueError(f"published={published!r}; expected one of False, True")
    return sorted(
        name
        for name in fnmatch.filter(MODELS, pattern)
        if all(getattr(MODELS[name], field) == value for field, value in given.items())
        and published in (None, bool(MODELS[name].card.published))
    )


def card(name: str) -> Card:
    """Return the card of a model."""
    return get_model(name).card


def create_model(name: str, *, rngs: nnx.Rngs | None = None, **options: Any) -> nnx.Module:
    """Build the model ``name`` with random weights; ``options`` are its function's arguments.

    The model's ``record`` says what it is.

    Raises:
      ValueError: no such model (the message names the closest).
      TypeError: no such option (likewise).
    """
    entry = get_model(name)
    model = entry(**options, rngs=nnx.Rngs(0) if rngs is None else rngs)
    model.record = ModelRecord(
        model=name,
        options=options,
        task=entry.task,
        preprocessing=entry.card.preprocessing,
    )
    return model


def abstract_model(name: str, **options: Any) -> nnx.Module:
    """Build the model ``name`` with shapes and dtypes in place of arrays: nothing is allocated."""
    return nnx.eval_shape(lambda: create_model(name, rngs=_OneKey(0), **options))


def init_apply(name: str, **options: Any):
    """Return the model ``name`` as two pure functions, ``init`` and ``apply``.

    ``init(key)`` returns ``{"params": …, "batch_stats": …}``, nested dicts of arrays.
    ``apply(variables, x, *, train=False, rng=None)`` returns the model's output and the variables
    with batch statistics updated (the same ones when not training). ``rng`` drives dropout, where
    the model has it. Both can be jitted, mapped and differentiated.
    """
    graphdef, abstract = nnx.split(abstract_model(name, **options))
    paths = nnx.to_flat_state(abstract)

    def init(key: jax.Array) -> dict:
        return _variables(nnx.state(create_model(name, rngs=nnx.Rngs(key), **options)))

    def apply(variables: dict, x: jax.Array, *, train: bool = False, rng=None):
        leaves = []
        for path, variable in paths:
            if isinstance(variable, nnx.RngState):
                leaves.append(_rng_leaf(variable, rng, train, name, len(leaves)))
                continue
            value = variables[_collection(variable)]
            for part in path:
                value = value[str(part)]
            leaves.append(value)
        state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
        model = nnx.merge(graphdef, state, copy=True)
        mode = dict(use_running_average=not train, deterministic=not train)
        model = nnx.view(model, raise_if_not_found=False, **mode)
        y = model(x)
        return y, _variables(nnx.state(model)) if train else variables

    return init, apply


class _OneKey(nnx.Rngs):
    """One key for all parameters, where only shapes are wanted.

    Counting keys in a trace costs Flax a search of the whole trace for each of them.
    """

    def __getattr__(self, name: str):
        stream = super().__getattr__(name)
        return stream.key.get_value if name == "params" else stream


def get_model(name: str) -> Model:
    """Return the record of a model.

    Raises:
      ValueError: no such model; the message names the closest.
      TypeError: ``name`` is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"name={name!r}; expected the name of a model, as list_models() gives them")
    if name not in MODELS:
        raise ValueError(
            f"no model {name!r}; {closest(name, MODELS)}; "
            f"all {len(MODELS)}: list_models(), or spectral-flax list '*'"
        )
    return MODELS[name]


def _collection(variable) -> str:
    return "params" if isinstance(variable, nnx.Param) else "batch_stats"


def _variables(state) -> dict:
    tree: dict = {"params": {}, "batch_stats": {}}
    for path, variable in nnx.to_flat_state(state):
        if isinstance(variable, nnx.RngState):
            continue
        branch = tree[_collection(variable)]
        for part in path[:-1]:
            branch = branch.setdefault(str(part), {})
        branch[str(path[-1])] = variable[...]
    return tree


def _rng_leaf(variable, rng, train, name, index):
    if isinstance(variable, nnx.RngCount):
        return jax.numpy.zeros((), variable.dtype)
    if rng is None and train:
        raise ValueError(f"{name} draws random numbers in training; apply needs rng=, a key")
    return jax.random.fold_in(jax.random.key(0) if rng is None else rng, index)
