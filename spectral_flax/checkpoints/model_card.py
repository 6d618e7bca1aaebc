# SPDX-License-Identifier: Apache-2.0
"""The page that describes a model on the Hub, made from its record."""

import json

from spectral_flax.models.record import ModelRecord
from spectral_flax.models.registry import MODELS

_USE = {
    "classification": 'sf.predict(model, "photo.jpg")[0]',
    "segmentation": 'sf.predict(model, "photo.jpg")',
    "pose": 'sf.predict(model, "photo.jpg")',
    "inpainting": "sf.inpaint(model, image, mask)",
}
_TAGS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "pose": "keypoint-detection",
    "inpainting": "image-to-image",
}
_MAX_CLASSES = 1000


def model_card(record: ModelRecord, repository: str = "OWNER/NAME") -> str:
    """Return the README of a repository on the Hub, in Markdown with its metadata in front."""
    entry = MODELS.get(record.model)
    task = record.task
    metadata = {
        "library_name": "spectral-flax",
        "tags": ["jax", "flax"],
        "pipeline_tag": _TAGS.get(task),
        "license": record.licence.lower() or None,
    }
    head = [f"{k}: {json.dumps(v)}" for k, v in metadata.items() if v]
    lines = ["---", *head, "---", "", f"# {record.model}", ""]
    lines += [f"{entry.title.replace('``', '`')}", ""] if entry and entry.title else []
    lines += ["```python", "import spectral_flax as sf", "", f'model = sf.load("{repository}")']
    lines += [_USE[task]] if task in _USE else []
    lines += ["```", ""]
    facts = {
        "options": ", ".join(f"{k}={v!r}" for k, v in record.options.items()),
        "weights": {"ema": "averaged over training", "raw": "as trained", None: ""}[record.weights],
        "step": "" if record.step is None else str(record.step),
        "data": str(_data(record)),
        "source": record.source,
        "paper": entry.card.paper if entry else "",
    }
    facts |= {name: f"{value:.4f}" for name, value in record.figures.items()}
    told = [f"| {name} | {value} |" for name, value in facts.items() if value]
    lines += ["| | |", "| --- | --- |", *told, ""] if told else []
    if record.preprocessing is not None:
        about = record.preprocessing
        size = " x ".join(map(str, about.input_size))
        lines += [f"Input: {size}, {about.channel_order}, mean {about.mean}, std {about.std}.", ""]
    if record.class_names:
        names = record.class_names[:_MAX_CLASSES]
        more = len(record.class_names) - len(names)
        lines += ["Classes: " + ", ".join(names) + (f" and {more} more" if more else "") + ".", ""]
    return "\n".join(lines)


def _data(record: ModelRecord) -> object:
    data = record.run.get("data", {})
    return data.get("name", "") if isinstance(data, dict) else ""
