# SPDX-License-Identifier: Apache-2.0
"""Folders of a model (``config.json`` and ``model.safetensors``), on disk or on the Hub."""

import contextlib
import dataclasses
import importlib
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

from spectral_flax.checkpoints.model_card import model_card
from spectral_flax.checkpoints.records import read_record, record_from_json, record_to_json
from spectral_flax.checkpoints.safetensors import read_safetensors, write_safetensors
from spectral_flax.checkpoints.torch.reader import read_torch
from spectral_flax.checkpoints.weights import Weights, narrowed
from spectral_flax.files import local_path, new_file, new_folder, refuse_existing
from spectral_flax.messages import reason, several
from spectral_flax.models.record import ModelRecord

log = logging.getLogger(__name__)
TIMEOUT = 5  # seconds for the Hub's first answer
CONFIG, WEIGHTS, DESCRIPTION = "config.json", "model.safetensors", "README.md"
# Names under which repositories keep PyTorch's weights, after ours and in this order.
TORCH_FILES = ("pytorch_model.bin", "model.pth", "model.ckpt")
TORCH_SUFFIXES = (".pth", ".pt", ".pyth", ".ckpt", ".bin", ".tar")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
REPOSITORY = re.compile(r"(?:hf://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def files_in(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Return the files that `write_folder` writes."""
    return [pathlib.Path(folder) / name for name in (CONFIG, WEIGHTS, DESCRIPTION)]


def write_folder(
    folder: str | os.PathLike[str],
    weights: Weights,
    *,
    overwrite: bool = False,
    repository: str = "OWNER/NAME",
) -> None:
    """Write a model's configuration, weights and a description to ``folder``.

    The description tells how to load it from ``repository``.

    Raises FileExistsError, and writes nothing, if one of the three is there and ``overwrite`` is
    not set. Other files in the folder stay.
    """
    if weights.model is None:
        raise ValueError("weights.model is None; a folder needs the model's registered name")
    folder = local_path(folder, "folder")
    texts = {
        CONFIG: record_to_json(weights.record),
        DESCRIPTION: model_card(weights.record, repository),
    }
    if not os.path.lexists(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = new_folder(folder)
    else:
        refuse_existing(files_in(folder), overwrite=overwrite)
        place = contextlib.nullcontext(folder)
    with place as folder, contextlib.ExitStack() as drafts:  # which get their names together
        folder.mkdir(exist_ok=True)
        draft = lambda name: drafts.enter_context(new_file(folder / name, overwrite=overwrite))
        write_safetensors(draft(WEIGHTS), weights)
        for name, text in texts.items():
            draft(name).write_text(text, encoding="utf-8")


def read_file(path: str | os.PathLike[str], *, entry: str | None = None) -> Weights:
    """Return the weights in a file, of safetensors or of PyTorch as its suffix tells."""
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        return narrowed(read_safetensors(path), entry, path)
    found = read_torch(path, entry=entry)
    try:
        record = ModelRecord() if found.record is None else record_from_json(found.record)
    except ValueError as error:
        raise ValueError(f"{path} can not be read as a PyTorch file: {error}") from error
    # Leaves of our modules; PyTorch's are weight, bias and running_mean.
    ours = record.model and any(n.endswith((".kernel", ".scale")) for n in found.tensors)
    return Weights(found.tensors, "flax" if ours else "torch", record, found.foreign)


def read_folder(folder: str | os.PathLike[str], *, entry: str | None = None) -> Weights:
    """Return the weights in a folder that `write_folder` or a PyTorch library wrote.

    Raises ValueError, naming the folder, if it holds no weights, or several files of them.
    """
    folder = pathlib.Path(folder)
    files = [path.name for path in folder.iterdir() if path.is_file()]
    weights = read_file(folder / _choose(files, str(folder)), entry=entry)
    return _with_config(weights, folder / CONFIG) if CONFIG in files else weights


def read_hub(repository: str, *, revision: str | None = None, entry: str | None = None) -> Weights:
    """Download ``owner/name`` (or ``owner/name@revision``) from the Hub and return its weights.

    Files are kept in huggingface_hub's cache, from which they come where ``HF_HUB_OFFLINE`` is set,
    and, with a warning, where the Hub does not answer. Raises ImportError if that package is
    missing, OSError if the repository can not be reached and is not in the cache, and ValueError if
    it holds no weights.
    """
    match = REPOSITORY.fullmatch(repository)
    if match is None:
        raise ValueError(f"repository={repository!r}; expected 'owner/name' or 'owner/name@branch'")
    name, revision = match["name"], revision or match["revision"]
    hub = _hub()
    if hub.constants.HF_HUB_OFFLINE:
        return read_folder(_cached(hub, name, revision, "HF_HUB_OFFLINE is set"), entry=entry)
    try:
        about = hub.HfApi().model_info(name, revision=revision, timeout=TIMEOUT)
        files = [sibling.rfilename for sibling in about.siblings]
    except Exception as error:  # of the package or of what carries its requests
        absent = _absence(error, name, revision)
        if absent is not None:
            raise FileNotFoundError(absent) from error
        folder = _cached(hub, name, revision, f"the Hub does not answer ({reason(error)})")
        log.warning("%s: the Hub does not answer; taken from %s", name, folder)
        return read_folder(folder, entry=entry)

    bounded = dict(etag_timeout=TIMEOUT)

    def download(file: str) -> pathlib.Path:
        try:
            return pathlib.Path(hub.hf_hub_download(name, file, revision=revision, **bounded))
        except Exception as error:  # as above
            told = f"{file} of {name} can not be downloaded from the Hub: {reason(error)}"
            raise OSError(told) from error

    weights = read_file(download(_choose(files, f"the repository {name}")), entry=entry)
    return _with_config(weights, download(CONFIG)) if CONFIG in files else weights


def _absence(error: Exception, name: str, revision: str | None) -> str | None:
    """Return what does not exist, if that is the error: a repository, or its revision."""
    match type(error).__name__:
        case "RepositoryNotFoundError" | "GatedRepoError":
            return f"the Hub has no model {name}, or it is private and no token is given"
        case "RevisionNotFoundError":
            return f"the model {name} on the Hub has no revision {revision!r}"
    return None


def _cached(hub, name: str, revision: str | None, why: str) -> pathlib.Path:
    """Return the folder of a repository in the cache; ``why`` it is not asked for on the Hub."""
    try:
        folder = hub.snapshot_download(name, revision=revision, local_files_only=True)
    except Exception as error:  # of the package
        place = hub.constants.HF_HUB_CACHE
        told = f"{name} is not in the cache {place}, and {why}"
        raise OSError(told) from error
    return pathlib.Path(folder)


def push_to_hub(
    repository: str, weights: Weights, *, private: bool = False, overwrite: bool = False
) -> None:
    """Upload what `write_folder` writes to ``owner/name``, which is made if it does not exist.

    Raises ValueError for a name that is none, FileExistsError if the repository has weights or a
    configuration, and ``overwrite`` is not set, and OSError if the Hub refuses or does not answer.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"repository={repository!r}; expected 'owner/name'")
    hub = _hub()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, weights, repository=repository)
        try:
            api = hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            siblings = api.model_info(repository, timeout=TIMEOUT).siblings
            there = {CONFIG, WEIGHTS, DESCRIPTION} & {sibling.rfilename for sibling in siblings}
            if there and not overwrite:
                names = ", ".join(sorted(there))
                told = f"{repository} has {names}; replaced only with overwrite=True"
                raise FileExistsError(told)
            api.upload_folder(repo_id=repository, folder_path=folder)
        except FileExistsError:
            raise
        except Exception as error:  # of the package or of what carries its requests
            raise OSError(f"{repository} can not be uploaded: {reason(error)}") from error


def _hub():
    try:
        importlib.import_module("huggingface_hub.constants")  # which the package loads when asked
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        need = "the Hub needs the package huggingface_hub: pip install 'spectral-flax[hub]'"
        raise ImportError(need) from error


def _choose(files: Sequence[str], where: str) -> str:
    for name in (WEIGHTS, *TORCH_FILES):
        if name in files:
            return name
    if f"{WEIGHTS}.index.json" in files:
        raise ValueError(f"{where} splits its weights over several files, which is not supported")
    candidates = [name for name in files if name.endswith(SUFFIXES)]
    if len(candidates) != 1:
        found = several(sorted(candidates)) or "none"
        raise ValueError(f"{where} should hold one file of weights; found: {found}")
    return candidates[0]


def _with_config(weights: Weights, path: pathlib.Path) -> Weights:
    record = read_record(path)
    return weights if record is None else dataclasses.replace(weights, record=record)
