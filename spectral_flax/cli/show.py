# SPDX-License-Identifier: Apache-2.0
"""``spectral-flax show``: what a run, a file of weights or a model of the zoo is."""

import argparse
from typing import Any

from spectral_flax.checkpoints.records import record_to_json
from spectral_flax.checkpoints.store import read_weights
from spectral_flax.models.record import ModelRecord
from spectral_flax.models.registry import MODELS

DESCRIPTION = """Print what travels with weights: model, options, size, class names, figures."""
_MAX_CLASSES = 20


def add_command(commands) -> None:
    """Add the command to the parser of all."""
    parser = commands.add_parser(
        "show", help="tell what a run or a file of weights is", description=DESCRIPTION
    )
    parser.add_argument(
        "source", metavar="WHAT",
        help="a run, a checkpoint, a file, a folder, a repository of the Hub, or a model's name",
    )  # fmt: skip
    parser.add_argument("--entry", help="which set of weights, where a PyTorch file has several")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the record, a line a fact."""
    if args.source in MODELS:
        entry = MODELS[args.source]
        record = ModelRecord(
            model=entry.name, task=entry.task, preprocessing=entry.card.preprocessing
        )
        facts = {"": entry.title.replace("``", "")} | record_facts(record)
        facts |= {name: getattr(entry.card, name) for name in _OF_CARD}
        facts["options"] = ", ".join(f"{p.name}={p.default!r}" for p in entry.options.values())
    else:
        weights = read_weights(args.source, entry=args.entry)
        record, tensors = weights.record, weights.tensors
        names = {"flax": "of this library", "torch": "of PyTorch"}[weights.names]
        count = sum(array.size for array in tensors.values())
        facts = {"": f"{args.source}: {len(tensors)} arrays, {count / 1e6:.2f} M numbers, {names}"}
        facts |= record_facts(record)
    if args.json:
        print(record_to_json(record), end="")
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in ("", None):
            print(f"{name:{width}}  {value}" if name else value)


_OF_CARD = ("paper", "code", "licence", "published", "note")


def record_facts(record: ModelRecord) -> dict[str, Any]:
    """Return what a record tells, as words by title."""
    facts: dict[str, Any] = {"model": record.model or "not told", "task": record.task}
    facts["options"] = ", ".join(f"{k}={v!r}" for k, v in record.options.items())
    about = record.preprocessing
    if about is not None:
        fit = {"crop": f"short side {about.resize}, then cropped", "stretch": "stretched"}
        size = " x ".join(map(str, about.input_size))
        facts["input"] = f"{size} {about.channel_order}, {fit.get(about.fit, 'or any size')}"
        facts["mean, std"] = f"{about.mean}, {about.std}"
        if len(about.input_size) == 3:
            uniform = about.sampling == "uniform"
            spread = "one of each equal part" if uniform else f"every {about.stride}th"
            facts["frames"] = f"{spread} of the video"
    names = record.class_names
    more = f" and {len(names) - _MAX_CLASSES} more" if len(names) > _MAX_CLASSES else ""
    facts["classes"] = ", ".join(names[:_MAX_CLASSES]) + more
    facts["weights"] = {"ema": "averaged over training", "raw": "as trained"}.get(record.weights)
    facts["step"] = record.step
    facts["figures"] = ", ".join(f"{k} {v:.4f}" for k, v in record.figures.items())
    data = record.run.get("data", {})
    facts["data"] = data.get("name") if isinstance(data, dict) else None
    facts["licence"], facts["source"] = record.licence, record.source
    return facts
