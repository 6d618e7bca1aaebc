# SPDX-License-Identifier: Apache-2.0
"""Export: a trained model as a file for other programs, tried at once."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from spectral_flax.checkpoints.records import record_to_json
from spectral_flax.checkpoints.store import load, record_of
from spectral_flax.exporting import onnx, stablehlo
from spectral_flax.exporting.program import Inputs, Program, make_program
from spectral_flax.files import local_path, new_file, refuse_existing
from spectral_flax.inference.preparation import preprocessing_of
from spectral_flax.messages import shown

Format = Literal["stablehlo", "onnx"]
Size = tuple[int, int]
FORMATS = {"stablehlo": stablehlo, "onnx": onnx}
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
      path: where it is; its description lies beside it, with ``.json`` at the end.
      size: height and width of the images that it takes.
      error: largest difference to the model in JAX on random inputs, divided by the largest
        absolute value of its output.
    """

    path: pathlib.Path
    size: Size
    error: float


def export(
    model: nnx.Module | str | os.PathLike,
    path: str | os.PathLike,
    *,
    format: Format | None = None,
    batch: int | Literal["dynamic"] = "dynamic",
    size: Size | Sequence[Size] | None = None,
    frames: int | None = None,
    inputs: Inputs = "pixels",
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> list[Exported]:
    """Write a model, its weights inside, as a file for other programs; try it on random inputs.

    "onnx" needs the extra ``onnx`` and has standard operators only: transforms are products with
    matrices. "stablehlo" is for ``jax.export.deserialize`` on CPUs, NVIDIA's GPUs and TPUs. Beside
    a file lies its description in JSON: arguments, result, preprocessing, class names. Returns what
    was written, by size.

    Args:
      model: a model, or what `sf.load` reads.
      path: of the file. For several sizes each name ends in its size: ``lama_256x256.onnx``.
      format: None: as the suffix of ``path`` says, ``.onnx`` or ``.stablehlo``.
      batch: how many images at a time; "dynamic": any number.
      size: height and width, or several; None: that of the model's preprocessing.
      frames: of a clip, for models of videos; None: as its preprocessing says.
      inputs: "pixels", uint8 RGB, which the file normalises (and, of an inpainting model, masks and
        fills in at any size), or "prepared", the input of the model itself, as `sf.prepare`
        returns it.
      tolerance: an error above it (see `Exported`) is refused.
      overwrite: whether files that exist are replaced.

    Raises:
      ValueError: an argument has an impossible value, the model does not take a size, the format
        lacks an operation of it, or the error is above the tolerance. No file is left.
      TypeError: a model does not say how pixels become its input.
      ImportError, OSError: the extra or the folder is missing, or the file exists.
    """
    format, sizes = check_export(path, format=format, size=size, overwrite=overwrite)
    batch = _batch(batch)
    if inputs not in ("pixels", "prepared"):
        raise ValueError(f"inputs={shown(inputs)}; expected 'pixels' or 'prepared'")
    model = model if isinstance(model, nnx.Module) else load(model)
    about = preprocessing_of(model)
    frames = _frames(frames, about.input_size)
    sizes = sizes or [about.input_size[-2:]]
    programs = [make_program(model, size, frames, inputs) for size in sizes]
    form = FORMATS[format].adapted(model)
    written = []
    for size, target, program in zip(sizes, _paths(path, sizes), programs, strict=True):
        converted = make_program(form, size, frames, inputs)
        told = _description(model, program, format, batch)
        with new_file(target, overwrite=overwrite) as draft:
            FORMATS[format].write(converted, batch, draft, told)
            error = _error(program, FORMATS[format].reader(draft), batch)
            _check_error(error, tolerance, target)
        with new_file(_description_path(target), overwrite=overwrite) as draft:
            draft.write_text(told, encoding="utf-8")
        written.append(Exported(target, size, error))
    return written


def _check_error(error: float, tolerance: float, target: pathlib.Path) -> None:
    if not error <= tolerance:  # it may be NaN
        raise ValueError(
            f"{target} would differ from the model by {error:.2g} of its largest output; "
            f"expected at most tolerance={tolerance:g}"
        )


def check_export(
    path: str | os.PathLike,
    *,
    format: Format | None = None,
    size: Size | Sequence[Size] | None = None,
    overwrite: bool = False,
) -> tuple[str, list[Size]]:
    """Return the format and the sizes, having checked that `export` can write these files.

    No sizes are the model's own. Raises ValueError, ImportError or OSError as `export`.
    """
    format, sizes = _format(format, path), _sizes(size)
    paths = _paths(path, sizes)
    folder = paths[0].parent
    if not folder.is_dir():
        raise FileNotFoundError(f"output {str(paths[0])!r}: there is no folder {str(folder)!r}")
    refuse_existing([*paths, *map(_description_path, paths)], overwrite=overwrite)
    FORMATS[format].check_extra()
    return format, sizes


def _error(program: Program, run, batch: int | None) -> float:
    """Return the largest relative error of a file; of any batch, for two and for one example."""
    arrays = program.random_inputs(batch or 2)
    expected = np.asarray(jax.jit(program.function)(*arrays))
    scale = np.abs(expected).max() or 1.0
    errors = []
    for rows in (2, 1) if batch is None else (batch,):
        found = run([array[:rows] for array in arrays])
        if found.shape != expected[:rows].shape:
            raise ValueError(f"the file gives {found.shape}; expected {expected[:rows].shape}")
        errors.append(np.abs(found - expected[:rows]).max() / scale)
    return float(np.max(errors))


def _description(model: nnx.Module, program: Program, format: str, batch: int | None) -> str:
    """Return what a user of the file must know, as JSON."""
    # What builds and trains the model is not for a stranger, and may name folders of its owner.
    record = dataclasses.replace(record_of(model), options={}, run={})
    known = json.loads(record_to_json(record))
    dims = ["batch" if batch is None else batch]
    arguments = [
        {"name": i.name, "dtype": i.dtype, "shape": dims + list(i.shape), "meaning": i.meaning}
        for i in program.inputs
    ]
    values: dict[str, Any] = {
        "format": format,
        "inputs": arguments,
        "output": {"name": program.output, "meaning": program.meaning},
        **{k: v for k, v in known.items() if k not in ("format", "library", "options")},
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _format(format: str | None, path: str | os.PathLike) -> str:
    suffix = local_path(path).suffix
    known = {f".{name}": name for name in FORMATS}
    if format is None:
        if suffix not in known:
            raise ValueError(
                f"path={os.fspath(path)!r} does not end in .onnx or .stablehlo; give the format"
            )
        return known[suffix]
    if format not in FORMATS:
        raise ValueError(f"format={shown(format)}; expected 'stablehlo' or 'onnx'")
    if known.get(suffix, format) != format:
        raise ValueError(f"path={os.fspath(path)!r} is not named as a file of format={format!r}")
    return format


def _batch(batch: int | str) -> int | None:
    if batch == "dynamic":
        return None
    if type(batch) is not int or batch < 1:
        raise ValueError(f"batch={shown(batch)}; expected a positive number or 'dynamic'")
    return batch


def _sizes(size) -> list[Size]:
    if size is None:
        return []
    several = [size] if isinstance(size, Sequence) and type(next(iter(size), 0)) is int else size
    try:
        found = list(dict.fromkeys((height, width) for height, width in several))
    except (TypeError, ValueError):
        found = []
    if not found or not all(type(n) is int and n > 0 for one in found for n in one):
        raise ValueError(f"size={shown(size)}; expected (height, width), or several of them")
    return found


def _frames(frames: int | None, input_size: tuple[int, ...]) -> int | None:
    *time, _, _ = input_size
    if frames is None:
        return time[0] if time else None
    if not time:
        raise ValueError(f"frames={frames}; the model takes images, not clips")
    if type(frames) is not int or frames < 1:
        raise ValueError(f"frames={shown(frames)}; expected a positive number")
    return frames


def _paths(path: str | os.PathLike, sizes: Sequence[Size]) -> list[pathlib.Path]:
    path = local_path(path)
    if len(sizes) < 2:
        return [path]
    return [path.with_name(f"{path.stem}_{h}x{w}{path.suffix}") for h, w in sizes]


def _description_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")
