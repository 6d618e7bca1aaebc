# SPDX-License-Identifier: Apache-2.0
"""Text for messages: values from files on one line, escaped and bounded; closest names."""

import difflib
from collections.abc import Iterable
from typing import Any


def shown(value: Any, limit: int = 200) -> str:
    """Return a value from a file as a line of text, escaped and bounded; its size costs no time."""
    if isinstance(value, str):
        text = "".join(map(_escaped, value[:limit]))
        return text if len(value) <= limit else f"{text}..."
    if isinstance(value, bytes | bytearray):
        return f"{bytes(value[: limit // 4])!r}" + ("..." if len(value) > limit // 4 else "")
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if isinstance(value, tuple | list):
        items = [quoted(v, 80) if not isinstance(v, tuple | list) else "..." for v in value[:8]]
        inside = ", ".join(items) + (", ..." if len(value) > 8 else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return f"a {shown(type(value).__name__)}"


def quoted(value: Any, limit: int = 200) -> str:
    """Return a name from a file as `shown`, in quotes."""
    return f"'{shown(value, limit)}'" if isinstance(value, str) else shown(value, limit)


def several(values: Iterable[Any], count: int = 8, limit: int = 100) -> str:
    """Return the first ``count`` of ``values`` with commas, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - count} more" if len(values) > count else ""
    return ", ".join(shown(value, limit) for value in values[:count]) + more


def closest(word: str, known: Iterable[str], count: int = 5) -> str:
    """Return the end of a message on an unknown name: the closest known names, the closest first.

    If few are known, all are told.
    """
    known = list(known)
    near = difflib.get_close_matches(word, known, count, cutoff=0.5)
    if near or len(known) > 3 * count:
        return f"closest: {several(near or difflib.get_close_matches(word, known, count, 0.0))}"
    return f"known: {several(sorted(known), 3 * count) or 'none'}"


def reason(error: BaseException, limit: int = 200) -> str:
    """Return in a line why an operation failed: the system's own words, or the error's."""
    if isinstance(error, OSError) and error.strerror:
        return shown(error.strerror, limit)
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else type(error).__name__, limit)


def message(error: BaseException, limit: int = 1000) -> str:
    """Return the text of an error, which may quote a file, escaped and bounded."""
    return shown(str(error), limit)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)  # by hand: a codec is imported, that is executed, at its first use
    usual = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    number = f"x{code:02x}" if code < 256 else f"u{code:04x}" if code < 65536 else f"U{code:08x}"
    return usual.get(character, f"\\{number}")
