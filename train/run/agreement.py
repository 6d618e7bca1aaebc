# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run must have in common: their config, their programs, their data."""

import dataclasses
import functools
import importlib.metadata
import io
import os
import platform
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

import spectral_flax
import train
from spectral_flax.messages import reason
from train.config import Config
from train.data import Source
from train.data.files import Files
from train.errors import UserError
from train.processes.coordination import agree, together
from train.tasks import open_data

# The examples of a data set that are looked at, spread over all of it, and how much of a file.
LOOKED_AT = 64
FILE_BYTES = 2**16
# What each process may have of its own.
_OWN = ("processes.", "workdir")


def agree_on_command(config: Config) -> None:
    """Refuse to go on unless all processes run the same programs with the same options.

    Raises:
      AgreedError: it names the options that differ, by what the command line calls them.
    """
    if jax.process_count() == 1:
        return
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    facts = {name: importlib.metadata.version(name) for name in names}
    facts["Python"] = ".".join(platform.python_version_tuple()[:2])
    for module in (spectral_flax, train):
        facts[f"the checksum of {module.__name__}"] = _crc_of_code(module)
    agree(facts, "install the same versions, and the same source, for all processes")
    values = _flat(dataclasses.asdict(config))
    facts = {f"--{n}": repr(value) for n, value in values.items() if not n.startswith(_OWN)}
    agree(facts, "start all processes with the same config and options")


def open_agreed_data(config: Config) -> tuple[Source, Source]:
    """Open the training and the test split, of which all processes must see the same examples.

    Some examples, spread over each of them, are looked at.

    Raises:
      AgreedError: a process cannot open them, or it says in what they differ.
    """
    with together():
        training, test = (open_data(config, split) for split in ("train", "test"))
        if jax.process_count() == 1:
            return training, test
        sets = (("training", training), ("test", test))
        facts = {f"the {name} set": described(source) for name, source in sets}
    agree(facts, "see that the data set is complete, and the same, on every host")
    return training, test


def described(source: Source) -> str:
    """Return how many examples a data set has, and a checksum of its classes and some of them."""
    names = zlib.crc32("\0".join(source.class_names).encode())
    return f"{len(source)} examples with checksum {_crc_of_examples(source) ^ names:08x}"


def _crc_of_examples(source: Source) -> int:
    count = min(LOOKED_AT, len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count).astype(np.int64)).tolist()
    look = _look_at_file if isinstance(source, Files) else _look_at_example
    return functools.reduce(lambda crc, index: look(source, index, crc), indices, 0)


def _look_at_file(source: Files, index: int, crc: int) -> int:
    """Add the name of a file, its label, its size and how it begins: it may be a long video."""
    try:
        file, label = source.items.load(index)
        with file if isinstance(file, io.IOBase) else open(file, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            found = stream.read(FILE_BYTES) + f"{label} {size}".encode()
    except (OSError, UserError) as error:
        found = reason(error).encode()  # as a run bears it, which replaces such examples
    return zlib.crc32(found, zlib.crc32(os.fsencode(source.items.name(index)), crc))


def _look_at_example(source: Source, index: int, crc: int) -> int:
    for name, value in sorted(source[index].items()):
        array = np.ascontiguousarray(value)
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8), crc)
    return crc


def _crc_of_code(module: ModuleType) -> str:
    folder = Path(module.__file__).parent
    files = sorted(folder.rglob("*.py"))
    code = b"".join(str(f.relative_to(folder)).encode() + f.read_bytes() for f in files)
    return f"{zlib.crc32(code):08x}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted names."""
    found = {}
    for name, value in values.items():
        name = prefix + name.replace("_", "-")
        nested = isinstance(value, Mapping) and value
        found |= _flat(value, f"{name}.") if nested else {name: value}
    return found
