# SPDX-License-Identifier: Apache-2.0
"""Names that files of earlier versions use.

They kept inserted blocks beside the stages of a residual network, ``inserted.stage2_1`` for the one
after residual block 1, and counted residual blocks alone: ``stage2.2`` was the third.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_INSERTED = re.compile(r"(|.*\.)inserted\.(stage\d)_(0|[1-9]\d{0,3})((?:\..*)?)")
_RESIDUAL = re.compile(r"(|.*\.)(stage\d)\.(0|[1-9]\d{0,3})((?:\..*)?)")


# Options of models, and what they are called now.
OPTIONS = {
    "blocks_after": "blocks_at",
    "places": "blocks_at",
    "head_window": "head_pool_size",
    "stem_margin": "stem_pool_padding",
}


def current_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a model in a file under the names that they have now.

    Pose networks had ``decoder_blocks`` beside ``blocks_after``.
    """
    current = {OPTIONS.get(name, name): value for name, value in options.items()}
    decoder = current.pop("decoder_blocks", None)
    if decoder is not None:
        encoder = current.get("blocks_at")
        current["blocks_at"] = {
            **(encoder if isinstance(encoder, Mapping) else {}),
            "decoder": decoder,
        }
    return current


def options_before_records(model: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a model whose file is older than records, under the names of now.

    What was another default then is said: in pose networks double attention distributed over
    channels, and compact non-local blocks had the dot product.
    """
    options = current_options(options)
    if not (model or "").startswith("pose_"):
        return options
    for block, before in (("a2", {"distribute": "channels"}), ("cgnl", {"gamma": None})):
        if options.get("block") == block or model.endswith(f"_{block}"):
            options["block_options"] = {**before, **(options.get("block_options") or {})}
    return options


def current_names(names: Iterable[str]) -> dict[str, str]:
    """Return the current name of each name in a file; its own where the file is current.

    Positions depend on all blocks of a network, so ``names`` are all names of a file. What stands
    before the stage (``state.0.trace.``) stays.
    """
    names = list(names)
    matches = {name: match for name in names if (match := _INSERTED.fullmatch(name))}
    inserted: dict[str, set[int]] = {}
    for match in matches.values():
        inserted.setdefault(match[2], set()).add(int(match[3]))
    current = {}
    for name in names:
        match = matches.get(name) or (_RESIDUAL.fullmatch(name) if matches else None)
        if match is None:
            current[name] = name
            continue
        before, stage, number, rest = match[1], match[2], int(match[3]), match[4]
        position = number + sum(other < number for other in inserted.get(stage, ()))
        position += name in matches
        current[name] = f"{before}{stage}.{position}{rest}"
    return current


def with_current_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays of a file under the names that they have now."""
    return {new: tensors[name] for name, new in current_names(tensors).items()}
