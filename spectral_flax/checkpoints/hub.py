# SPDX-License-Identifier: Apache-2.0
"""Models as folders (``config.json`` and ``model.safetensors``), on disk or on the Hub."""

import importlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

from spectral_flax.checkpoints.safetensors_file import read_safetensors, write_safetensors
from spectral_flax.checkpoints.torch_file import read_torch
from spectral_flax.checkpoints.untrusted import read_small
from spectral_flax.checkpoints.weights import Weights, options_from_json, options_to_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LIBRARY = "spectral_flax"
# Names under which repositories keep PyTorch's weights, after ours and in this order.
TORCH_FILES = ("pytorch_model.bin", "model.pth", "model.ckpt")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pyth", ".ckpt", ".tar")
REPOSITORY = re.compile(r"(?:hf://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def write_folder(folder: str | os.PathLike, weights: Weights) -> None:
    """Write a model's configuration, weights and a short description to ``folder``."""
    if weights.model is None:
        raise ValueError("weights.model is None; a folder needs the model's registered name")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    options = json.loads(options_to_json(weights.options))
    config = {"library": LIBRARY, "model": weights.model, "options": options}
    write_safetensors(folder / WEIGHTS, weights)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").write_text(_description(weights.model))


def read_folder(folder: str | os.PathLike) -> Weights:
    """Return the weights in a folder that `write_folder` or a PyTorch library wrote.

    Raises ValueError, naming the folder, if it holds no weights, or several files of them.
    """
    folder = pathlib.Path(folder)
    files = [path.name for path in folder.iterdir() if path.is_file()]
    weights = _read_file(folder / _choose(files, str(folder)))
    if weights.names == "flax" and CONFIG in files:
        return _with_config(weights, folder / CONFIG)
    return weights


def read_hub(repository: str, *, revision: str | None = None) -> Weights:
    """Download ``owner/name`` (or ``owner/name@revision``) from the Hub and return its weights.

    Files are kept in huggingface_hub's cache. Raises ImportError if that package is missing, its
    own errors if the repository can not be reached, and ValueError if it holds no weights.
    """
    match = REPOSITORY.fullmatch(repository)
    if match is None:
        raise ValueError(f"repository={repository!r}; expected 'owner/name' or 'owner/name@branch'")
    name, revision = match["name"], revision or match["revision"]
    hub = _hub()
    files = hub.HfApi().list_repo_files(name, revision=revision)

    def download(file: str) -> pathlib.Path:
        return pathlib.Path(hub.hf_hub_download(name, file, revision=revision))

    weights = _read_file(download(_choose(files, f"the repository {name}")))
    if weights.names == "flax" and CONFIG in files:
        return _with_config(weights, download(CONFIG))
    return weights


def push_to_hub(repository: str, weights: Weights, *, private: bool = False) -> None:
    """Upload what `write_folder` writes to ``owner/name``, which is made if it does not exist."""
    hub = _hub()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, weights)
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)


def _hub():
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        reason = "the Hub needs the package huggingface_hub: pip install 'spectral-flax[hub]'"
        raise ImportError(reason) from error


def _choose(files: Sequence[str], where: str) -> str:
    for name in (WEIGHTS, *TORCH_FILES):
        if name in files:
            return name
    if f"{WEIGHTS}.index.json" in files:
        raise ValueError(f"{where} splits its weights over several files, which is not supported")
    candidates = [name for name in files if name.endswith(SUFFIXES)]
    if len(candidates) != 1:
        found = ", ".join(sorted(candidates)[:8]) or "none"
        raise ValueError(f"{where} should hold one file of weights; found: {found}")
    return candidates[0]


def _read_file(path: pathlib.Path) -> Weights:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    found = read_torch(path)
    return Weights(found.tensors, names="torch", foreign=found.foreign)


def _with_config(weights: Weights, path: pathlib.Path) -> Weights:
    try:
        config = json.loads(read_small(path))
        if config.get("library") != LIBRARY:
            return weights
        options = options_from_json(json.dumps(config["options"]))
        return Weights(weights.tensors, weights.names, str(config["model"]), options)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not the configuration of a model: {error}") from error


def _description(model: str) -> str:
    return f"""---
library_name: spectral-flax
tags: [jax, flax]
---

# {model}

```python
import spectral_flax as sf

model = sf.load("OWNER/NAME")
```
"""
