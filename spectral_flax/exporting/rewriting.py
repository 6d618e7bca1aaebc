# SPDX-License-Identifier: Apache-2.0
"""Traced functions with some of their operations replaced by others that a format has."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core
import numpy as np

Rule = Callable[..., jax.Array | None]
_SMALL = 1024  # numbers
_HERE = pathlib.Path(__file__).parent
_LIBRARIES = {"jax", "flax", "jax2onnx"}
# What holds the function inside an operation that calls one.
_CALLED = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "batch_parallel": "jaxpr",
    "batch_parallel_by_platform": "jaxpr",
    "custom_partitioning": "call",
}


def rewritten(
    traced: jax.extend.core.ClosedJaxpr, rules: Mapping[str, Rule]
) -> Callable[..., list[jax.Array]]:
    """Return a traced function, its calls inlined, with other operations in place of some.

    A rule has the name of an operation, takes its arguments and parameters, and returns the result;
    None leaves the operation as it is. What follows from constants alone, such as a matrix from its
    parameters, is computed at once.
    """
    return lambda *args: _evaluate(traced.jaxpr, traced.consts, args, rules)


def _evaluate(jaxpr, consts, args, rules: Mapping[str, Rule]) -> list[jax.Array]:
    values: dict[Any, Any] = dict(
        zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True)
    )

    def read(atom):
        return atom.val if isinstance(atom, jax.extend.core.Literal) else values[atom]

    for operation in jaxpr.eqns:
        results = _apply(operation, [read(atom) for atom in operation.invars], rules)
        values.update(zip(operation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(operation, args, rules: Mapping[str, Rule]) -> list[jax.Array]:
    primitive, params = operation.primitive, operation.params
    # A trace of the result still says where the model has the operation.
    with jax.named_scope(place_of(operation)):
        if primitive.name in rules:
            result = rules[primitive.name](*args, **params)
            if result is not None:
                return [result]
        if primitive.name in _CALLED:
            called = params[_CALLED[primitive.name]]
            if isinstance(called, jax.extend.core.ClosedJaxpr):
                return _evaluate(called.jaxpr, called.consts, args, rules)
            return _evaluate(called, [], args, rules)
        at_once = not any(isinstance(x, jax.core.Tracer) for x in args)
        at_once = at_once and _is_small(operation, args)
        with jax.ensure_compile_time_eval() if at_once else contextlib.nullcontext():
            results = primitive.bind(*args, **params)
        return results if primitive.multiple_results else [results]


def place_of(operation: jax.extend.core.JaxprEqn) -> str:
    """Return which line of a model an operation was traced from; of one inside JAX, its name."""
    told = operation.source_info.traceback
    for frame in told.frames if told is not None else ():
        path = pathlib.Path(frame.file_name)
        if path.parent != _HERE and not _LIBRARIES & set(path.parts):
            return f"{frame.function_name} of {path.name}, line {frame.line_num}"
    return operation.primitive.name


def _is_small(operation, args) -> bool:
    """Return whether a file may keep a result in place of what it is made from."""
    shapes = [atom.aval.shape for atom in operation.outvars]
    if not all(isinstance(n, int) for shape in shapes for n in shape):  # of a batch of any size
        return False
    return sum(map(math.prod, shapes)) <= _SMALL + sum(np.size(x) for x in args)
