# SPDX-License-Identifier: Apache-2.0
"""Values of a pickle beside lists, dictionaries and scalars: names, and objects left unbuilt."""

import dataclasses
from typing import Any

from spectral_flax.messages import shown

MAX_KEY = 4096  # characters: to find a key again is to compare it


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
    """A class or function named by a pickle, never imported."""

    name: str


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class Foreign:
    """An object of a class that is not known here: its name and its data, never built."""

    name: str
    args: tuple
    state: Any = None
    items: list = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        return f"<object of {shown(self.name)}>"


@dataclasses.dataclass(eq=False, slots=True)
class Key:
    """A dictionary key that is not a text.

    It equals nothing but itself, so that finding it takes no time that the file could choose: the
    hashes of Python's numbers and tuples are no secret, and equal ones are easily made.
    """

    value: Any

    def __str__(self) -> str:
        return shown(self.value)


def safe_key(key: Any) -> Any:
    """Return a key whose hash and comparison cost neither recursion nor crafted collisions."""
    return key if isinstance(key, str) and len(key) <= MAX_KEY else Key(key)
