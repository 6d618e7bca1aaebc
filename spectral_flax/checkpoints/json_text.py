# SPDX-License-Identifier: Apache-2.0
"""A reader of JSON from untrusted files."""

import json
import pathlib
from typing import Any

from spectral_flax.files import read_small
from spectral_flax.messages import quoted

MAX_BYTES = 1 << 20  # of a configuration; what this library writes has some hundreds


def parse_json(source: str | bytes | pathlib.Path, *, limit: int = MAX_BYTES) -> Any:
    """Return the value of a text in JSON, or of a file of it.

    Raises ValueError, in a line, for what is too long or too deep, names an entry twice, is not
    UTF-8 or not JSON.
    """
    if isinstance(source, pathlib.Path):
        source = read_small(source, limit)
    if len(source) > limit:
        raise ValueError(f"it is longer than {limit} bytes")
    try:
        text = source.decode("utf-8") if isinstance(source, bytes) else source
        return json.loads(text, object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply (the recursion limit is reached)") from error


def _without_doubles(pairs: list) -> dict:
    result = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"it names the entry {quoted(name)} twice")
        result[name] = value
    return result
