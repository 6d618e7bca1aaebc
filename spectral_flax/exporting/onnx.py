# SPDX-License-Identifier: Apache-2.0
"""ONNX by jax2onnx: real arithmetic and standard operators only, transforms as matrix products."""

import contextlib
import logging
import pathlib
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.extend.core
import numpy as np
from flax import nnx

from spectral_flax.exporting.program import Program
from spectral_flax.kernels.convolution import plain_convolutions
from spectral_flax.layers.folding import fold_batch_norm

OPSET = 17
"""Of 2022: runtimes of today read it, and so do those of older browsers and devices."""
MAX_BYTES = 2**31 - 1  # of a file of this format


def check_extra() -> None:
    """Raise ImportError, with what to install, where the converter or the runtime is missing."""
    try:
        import jax2onnx  # noqa: F401
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(f'ONNX needs {error.name}: pip install "spectral-flax[onnx]"') from error


def adapted(model: nnx.Module) -> nnx.Module:
    """Return a model in operations that ONNX has, for inference: no FFT, fewer normalisations."""
    with contextlib.suppress(ValueError):  # some normalisation follows no convolution: all stay
        model = fold_batch_norm(model)
    return nnx.view(model, implementation="matmul", raise_if_not_found=False)


def write(program: Program, batch: int | None, path: pathlib.Path, metadata: str) -> None:
    """Write a program with its weights and ``metadata`` inside; None is a batch of any size.

    Raises:
      ValueError: an operation has no form in ONNX, or the file would be too large.
    """
    import jax2onnx
    import onnx

    def plain(*arrays):
        with plain_convolutions(True):
            return program.function(*arrays)

    arrays = program.shapes(batch)
    # Traced here: the converter replaces functions of JAX and Flax by its own while it traces.
    traced = jax.make_jaxpr(plain)(*arrays)
    function = jax.extend.core.jaxpr_as_fun(traced)
    names = dict(input_names=[one.name for one in program.inputs], output_names=[program.output])
    try:
        with _quiet():
            graph = jax2onnx.to_onnx(function, arrays, opset=OPSET, **names)
    except Exception as error:  # of any kind: a converter for each operation
        raise ValueError(f"ONNX lacks {_operation(error)}: {error}") from error
    if graph.ByteSize() > MAX_BYTES:
        raise ValueError(f"the ONNX file has {graph.ByteSize()} bytes; at most {MAX_BYTES} fit")
    onnx.helper.set_model_props(graph, {"spectral_flax": metadata})
    path.write_bytes(graph.SerializeToString())


def reader(path: pathlib.Path) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return the function in a file, computed by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the warnings on types that the converter finds later anyway."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _operation(error: Exception) -> str:
    """Return which operation of which line an error of the converter is of, as far as it tells."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, jax.extend.core.JaxprEqn):
                return f"the operation {value.primitive.name!r}{_place(value)}"
    return "an operation of the model"


def _place(operation: jax.extend.core.JaxprEqn) -> str:
    """Return where in the code of a model an operation was traced."""
    told = operation.source_info.traceback
    for frame in told.frames if told is not None else ():
        name = pathlib.Path(frame.file_name)
        libraries = {"jax", "flax", "jax2onnx", "exporting"}
        if not libraries & set(name.parts):
            place = "/".join(name.parts[-3:])
            return f" ({frame.function_name}, {place}, line {frame.line_num})"
    return ""
