# SPDX-License-Identifier: Apache-2.0
"""The table of public weights: one row a file, in ``weights.toml`` beside this module."""

import dataclasses
import fnmatch
import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

from spectral_flax.messages import closest
from spectral_flax.models import registry
from spectral_flax.models.record import ModelRecord
from spectral_flax.models.registry import get_model

# In a licence: not for everybody, so never taken unless it is asked for by name.
_RESTRICTED = ("-NC-", "research purpose")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicWeights:
    """A public file of weights.

    Attributes:
      name: of the row, "project/model.variant"; where a repository of the Hub holds it, its name.
      model: of the zoo, with ``options``.
      hub: repository on the Hub; else ``url``, else ``page``, from which it is fetched by hand and
        then lies as ``file`` in the cache.
      sha256: hash of the file, or as much of its beginning as the source states.
      megabytes: size, where the source states it.
      source: where all this is said.
      licence: of the weights as stated; empty: none found.
      labels: class names that come with this library: "imagenet", "kinetics400" or "voc".
      preprocessing: fields in which it differs from the model's card.
      metric: the project's own figure, of what ``of`` names, by ``protocol``.
      default: taken where nothing but the model is named.
    """

    name: str
    model: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    hub: str = ""
    url: str = ""
    page: str = ""
    file: str = ""
    sha256: str = ""
    megabytes: float | None = None
    source: str = ""
    licence: str = ""
    labels: str = ""
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metric: str = ""
    of: str = ""
    protocol: str = ""
    default: bool = False

    @property
    def restricted(self) -> bool:
        """Whether the licence allows research, or non-commercial use, alone."""
        return any(words in self.licence for words in _RESTRICTED)

    @property
    def filename(self) -> str:
        """The name of the file in the cache."""
        return self.file or self.url.rpartition("/")[2]

    @property
    def place(self) -> str:
        """Where the file is, in words."""
        return f"the Hub: {self.hub}" if self.hub else self.url or self.page

    def record(self) -> ModelRecord:
        """Return what travels with the weights."""
        about = get_model(self.model).card.preprocessing
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in self.preprocessing.items()}
        return ModelRecord(
            model=self.model,
            options=self.options,
            task=get_model(self.model).task,
            preprocessing=dataclasses.replace(about, **fields),
            class_names=class_names(self.labels) if self.labels else (),
            licence=self.licence,
            source=self.name,
        )


@functools.cache
def table() -> dict[str, PublicWeights]:
    """Return all rows by name."""
    text = importlib.resources.files(__package__).joinpath("weights.toml").read_text("utf-8")
    rows = {}
    for group in tomllib.loads(text)["group"]:
        common = {key: value for key, value in group.items() if key != "weights"}
        for own in group["weights"]:
            options = {k: _tuples(v) for k, v in own.get("options", {}).items()}
            rows[own["name"]] = PublicWeights(**{**common, **own, "options": options})
    return rows


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def rows_of(model: str) -> list[PublicWeights]:
    """Return the rows of a model, its default first."""
    rows = [row for row in table().values() if row.model == model]
    return sorted(rows, key=lambda row: not row.default)


def list_models(pattern: str = "*", *, pretrained: bool | None = None, **filters: Any) -> list[str]:
    """Return the sorted names of models, as `spectral_flax.models.list_models`.

    ``pretrained=True`` returns the names of public weights of these models instead, each of which
    ``create_model(name, pretrained=...)`` and `load` take; the pattern may be of either.

    Raises:
      ValueError: as there, or ``pretrained`` is no boolean.
    """
    if pretrained not in (None, False, True):
        raise ValueError(f"pretrained={pretrained!r}; expected one of False, True")
    if not pretrained:
        return registry.list_models(pattern, **filters)
    models = set(registry.list_models(**filters))
    return sorted(
        row.name
        for row in table().values()
        if row.model in models
        and (fnmatch.fnmatch(row.name, pattern) or fnmatch.fnmatch(row.model, pattern))
    )


def default_row(model: str) -> PublicWeights:
    """Return the row that ``pretrained=True`` takes.

    Raises:
      ValueError: the model has no public weights that can be fetched; the message says which there
        are, or of which model.
    """
    rows = rows_of(get_model(model).name)
    if rows and rows[0].default:
        return rows[0]
    if rows:
        names = ", ".join(row.name for row in rows)
        raise ValueError(
            f"pretrained=True: {model} has no weights by default; name them: pretrained={names}"
        )
    near = closest(model, {row.model for row in table().values()})
    raise ValueError(
        f"pretrained=True: no public weights of {model} are known; {near}; all: "
        "spectral-flax list --pretrained. pretrained=PATH takes a file"
    )


@functools.cache
def class_names(labels: str) -> tuple[str, ...]:
    """Return the class names of a data set: "imagenet", "kinetics400" or "voc"."""
    folder = importlib.resources.files(__package__).joinpath("labels")
    return tuple(folder.joinpath(f"{labels}.txt").read_text("utf-8").splitlines())
