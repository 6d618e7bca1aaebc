# SPDX-License-Identifier: Apache-2.0
"""Models by name: building, listing, and what a user must know of each."""

import dataclasses
import fnmatch
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

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
                listed = f"all: model_options({self.name!r})"
                raise TypeError(f"{self.name} has no option {option!r}; {near}; {listed}")
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


def register_model(
    card: Card | None = None, *, name: str | None = None, **about: Any
) -> Callable[[Callable], Callable]:
    """Return a decorator that adds a function, or a class, under ``name`` or its own.

    The function returns an `nnx.Module`. Its parameters, all by keyword, are the model's options
    and ``rngs``; ``**numerics: Unpack[layers.Numerics]`` stands for ``rngs``, ``dtype``,
    ``param_dtype`` and ``precision``. ``card`` says how images are prepared; ``about`` are fields
    of `Model`, such as ``task``, ``rank`` and ``defaults``.

    Raises:
      ValueError: the name is taken, or one that no file can tell.
      TypeError: what is decorated lacks ``rngs`` or does not list its options, or ``about`` has
        another field.
    """
    if card is not None and not isinstance(card, Card):
        raise TypeError(f"card={card!r}; expected a Card, as in @register_model(Card(...))")
    fields = [f.name for f in dataclasses.fields(Model) if f.name not in ("function", "card")]
    for field in about:
        if field not in fields:
            raise TypeError(f"register_model has no argument {field!r}; {closest(field, fields)}")

    def enter(function: Callable) -> Callable:
        own_name = function.__name__ if name is None else name
        if not (isinstance(own_name, str) and re.fullmatch(r"\w[\w.-]{0,99}", own_name)):
            raise ValueError(f"name={own_name!r}; expected letters, digits, and _ . - after them")
        _check_function(function, own_name)
        title = (function.__doc__ or own_name).partition("\n")[0]
        known = dict(name=own_name, title=title, family=own_name, card=card or Card())
        add(Model(function=function, **known | about))
        return function

    return enter


def _check_function(function: Callable, name: str) -> None:
    parameters = parameters_of(function).values()
    if "rngs" not in [p.name for p in parameters]:
        raise TypeError(f"the model {name!r} has no parameter rngs; expected {name}(*, ..., rngs)")
    for p in parameters:
        if p.kind not in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
            raise TypeError(
                f"the model {name!r} takes {p}; expected every option by its name "
                "(**numerics: Unpack[Numerics] stands for rngs and dtypes)"
            )


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
    """Build the model ``name`` with random weights; ``options`` are those of `model_options`.

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
            f"all {len(MODELS)}: list_models(), or spectral-flax list '*' (of one's own: once its "
            "module is imported)"
        )
    return MODELS[name]
