# SPDX-License-Identifier: Apache-2.0
"""Text that comes from files, as it may stand in a message."""

from collections.abc import Iterable
from typing import Any


def shown(value: Any, limit: int = 80) -> str:
    """Return a text, or a number, in one line of at most ``limit`` printable characters.

    Anything else is told by its type: what a file holds may be without end.
    """
    if isinstance(value, int) and value.bit_length() > 256:
        value = "a number of more than 256 bits"
    elif not isinstance(value, str | bool | int | float | None):
        value = f"a {type(value).__name__}"
    text = value[: limit + 1] if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def several(values: Iterable[Any], count: int = 8) -> str:
    """Return the first ``count`` of ``values`` with commas, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - count} more" if len(values) > count else ""
    return ", ".join(shown(value) for value in values[:count]) + more
