# SPDX-License-Identifier: Apache-2.0
"""ONNX by jax2onnx: real arithmetic and standard operators only, transforms as matrix products."""

import contextlib
import logging
import math
import pathlib
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from spectral_flax.exporting.program import Program
from spectral_flax.exporting.rewriting import place_of, rewritten
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
    function = rewritten(jax.make_jaxpr(plain)(*arrays), RULES)
    names = dict(input_names=[one.name for one in program.inputs], output_names=[program.output])
    try:
        with _quiet():
            graph = jax2onnx.to_onnx(function, arrays, opset=OPSET, **names)
    except Exception as error:  # of any kind: a converter for each operation
        raise ValueError(f"ONNX lacks {_operation(error)}: {error}") from error
    _share_equal_constants(graph.graph)
    if graph.ByteSize() > MAX_BYTES:
        raise ValueError(f"the ONNX file has {graph.ByteSize()} bytes; at most {MAX_BYTES} fit")
    onnx.helper.set_model_props(graph, {"spectral_flax": metadata})
    path.write_bytes(graph.SerializeToString())


def _share_equal_constants(graph) -> None:
    """Keep one of each constant: the converter writes a table anew wherever it is used."""
    first: dict[bytes, str] = {}
    names: dict[str, str] = {}
    kept = []
    for constant in graph.initializer:
        name, constant.name = constant.name, ""
        names[name] = first.setdefault(constant.SerializeToString(deterministic=True), name)
        constant.name = name
        if names[name] == name:
            kept.append(constant)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    _rename(graph, names)


def _rename(graph, names: dict[str, str]) -> None:
    """Replace the names of what the operations of a graph take, those of loops inside it too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)


def reader(path: pathlib.Path) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return the function in a file, computed by onnxruntime on the CPU.

    Raises ValueError, at once or when it is called, with the reason why onnxruntime does not.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which it raises too; not what it leaves out
    with _told():
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    names = [one.name for one in session.get_inputs()]

    def run(arrays):
        with _told():
            return session.run(None, dict(zip(names, arrays, strict=True)))[0]

    return run


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raise errors of onnxruntime, which have no common kind, as ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"onnxruntime does not run the file: {error}") from error


def _rectified(*arrays, name: str, **_) -> jax.Array | None:
    """Rectify by one operation, which runtimes fuse with the convolution before it."""
    return nnx.relu(*arrays) if name == "relu" else None


def _product(x, y, *, dimension_numbers, **_) -> jax.Array | None:
    """Multiply with a constant by a matrix product, where the converter has a general sum.

    Every runtime has the one, and a fast one; not all have the other.
    """
    (contracted, of_table), (batch, _) = dimension_numbers
    swapped = not isinstance(x, jax.core.Tracer)
    if batch or swapped == (not isinstance(y, jax.core.Tracer)):
        return None
    if swapped:
        x, y, contracted, of_table = y, x, of_table, contracted
    kept = [axis for axis in range(x.ndim) if axis not in contracted]
    others = [axis for axis in range(y.ndim) if axis not in of_table]
    count = math.prod(y.shape[axis] for axis in of_table)
    table = np.transpose(y, (*of_table, *others)).reshape(count, -1)
    rows = jnp.transpose(x, (*kept, *contracted))
    rows = rows.reshape(*rows.shape[: len(kept)], count) if len(contracted) > 1 else rows
    product = jnp.matmul(rows, table)
    product = product.reshape(*rows.shape[:-1], *(y.shape[axis] for axis in others))
    if not swapped:
        return product
    last = range(len(kept), product.ndim)
    return jnp.transpose(product, (*last, *range(len(kept))))


def _padded(x, value, *, padding_config) -> jax.Array | None:
    """Pad by the converter's `jnp.pad`: its `lax.pad` takes no batch of any size."""
    inner = any(low < 0 or high < 0 or between for low, high, between in padding_config)
    if inner or isinstance(value, jax.core.Tracer):
        return None
    margins = [(low, high) for low, high, _ in padding_config]
    return jnp.pad(x, margins, constant_values=np.asarray(value).item())


def _convolved_by_frames(x, kernel, **options) -> jax.Array | None:
    """Convolve clips as images: the converter has no convolution over three axes.

    ``[N, T, H, W, C], [T', H', W', C//groups, D] -> [N, T'', H'', W'', D]``.
    """
    if x.ndim != 5:
        return None
    strides, dilation = options["window_strides"], options["rhs_dilation"]
    images = options | dict(window_strides=strides[1:], rhs_dilation=dilation[1:])
    images |= dict(padding=options["padding"][1:], lhs_dilation=options["lhs_dilation"][1:])
    images["dimension_numbers"] = ("NHWC", "HWIO", "NHWC")
    before, after = options["padding"][0]
    if before or after:
        x = jnp.pad(x, ((0, 0), (before, after), *((0, 0),) * 3))
    frames = (x.shape[1] - dilation[0] * (kernel.shape[0] - 1) - 1) // strides[0] + 1
    total = None
    for i, image_kernel in enumerate(kernel):
        first = i * dilation[0]
        seen = x[:, first : first + (frames - 1) * strides[0] + 1 : strides[0]]
        y = lax.conv_general_dilated(seen.reshape(-1, *seen.shape[2:]), image_kernel, **images)
        total = y if total is None else total + y
    return total.reshape(-1, frames, *total.shape[1:])


def _pooled(x, **options) -> jax.Array | None:
    """Take maxima over windows of images, of which the converter has an operation.

    ``[N, (T,) H, W, C]``; those over frames are of images with positions for columns.
    """
    window, strides = options["window_dimensions"], options["window_strides"]
    if any(map(any, options["padding"])):
        x = jnp.pad(x, options["padding"], constant_values=-np.inf)
    if x.ndim == 4:
        return nnx.max_pool(x, window_shape=window[1:3], strides=strides[1:3])
    frames = x.reshape(-1, *x.shape[2:])
    images = nnx.max_pool(frames, window_shape=window[2:4], strides=strides[2:4])
    _, height, width, channels = images.shape
    rows = images.reshape(-1, x.shape[1], height * width, channels)
    pooled = nnx.max_pool(rows, window_shape=(window[1], 1), strides=(strides[1], 1))
    return pooled.reshape(-1, pooled.shape[1], height, width, channels)


# Functions of Flax and `jnp` in these rules are the converter's own: it is tracing.
RULES = {
    "jit": _rectified,
    "dot_general": _product,
    "pad": _padded,
    "conv_general_dilated": _convolved_by_frames,
    "reduce_window_max": _pooled,
}


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
                place = str(value.source_info.name_stack) or place_of(value)
                return f"the operation {value.primitive.name!r} ({place})"
    return "an operation of the model"
