# SPDX-License-Identifier: Apache-2.0
"""Arguments for dtypes, precision and random numbers, common to all layers and models."""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Required, TypedDict

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import with_range
from spectral_flax.layers.initializers import Initializer, kaiming_normal, zeros


class Numerics(TypedDict, total=False):
    """``**numerics: Unpack[Numerics]``: Flax's words, with Flax's meaning."""

    dtype: DTypeLike | None
    """Type to compute in; None: the common type of input and parameters."""
    param_dtype: DTypeLike
    """Type of the parameters; float32 by default."""
    precision: lax.PrecisionLike
    """Of products; None: JAX's default."""
    rngs: Required[nnx.Rngs]
    """Random numbers for initial parameters and dropout."""


class ConvNumerics(Numerics, total=False):
    """``**numerics: Unpack[ConvNumerics]``: those of layers that are convolutions."""

    kernel_init: Initializer
    """Draws the kernels; `kaiming_normal` by default."""
    bias_init: Initializer
    """Draws the biases; zeros by default."""


DEFAULTS = dict(dtype=None, param_dtype=jnp.float32, precision=None)
CONV_DEFAULTS = DEFAULTS | dict(kernel_init=kaiming_normal, bias_init=zeros)
IN_WORDS = dict(
    dtype=("DTypeLike | None", "type to compute in; None: the common type of input and parameters"),
    param_dtype=("DTypeLike", "type of the parameters"),
    precision=("PrecisionLike", "of products; None: JAX's default"),
)


def types_of(numerics: Numerics) -> dict[str, DTypeLike | None]:
    """Return the two dtypes, which are all that a normalisation takes."""
    types = dict(dtype=None, param_dtype=jnp.float32)
    return {name: numerics.get(name, default) for name, default in types.items()}


def for_sums(numerics: Numerics) -> Numerics:
    """Return the numerics of a layer whose input is sums over a map (see `summing_dtype`)."""
    return numerics | dict(dtype=summing_dtype(**types_of(numerics)))


def summing_dtype(dtype: DTypeLike | None, param_dtype: DTypeLike) -> DTypeLike | None:
    """Return the dtype of a layer whose input is sums over a map: float16 overflows."""
    given = param_dtype if dtype is None else dtype
    return dtype if with_range(given) == given else with_range(given)


def parameters_of(function: Callable) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function, or of a class's constructor, one by one.

    Those that it takes as ``**numerics: Unpack[Numerics]``, or `ConvNumerics`, are listed with
    their defaults; of a `functools.partial`, what it gives by keyword is the default.
    """
    if isinstance(function, functools.partial):
        parameters = list(parameters_of(function.func).items())[len(function.args) :]
        given = function.keywords
        return {n: p.replace(default=given[n]) if n in given else p for n, p in parameters}
    is_class = inspect.isclass(function)
    # The metaclass of NNX modules hides the signature of the class itself.
    parameters = dict(inspect.signature(function.__init__ if is_class else function).parameters)
    if is_class:
        del parameters["self"]
    for name, parameter in list(parameters.items()):
        if parameter.kind is parameter.VAR_KEYWORD and (kind := _numerics(parameter.annotation)):
            del parameters[name]
            for field in typing.get_type_hints(kind):
                default = CONV_DEFAULTS.get(field, inspect.Parameter.empty)
                parameters[field] = inspect.Parameter(
                    field, inspect.Parameter.KEYWORD_ONLY, default=default
                )
    return parameters


def _numerics(annotation) -> type | None:
    """Return the kind of numerics that ``Unpack[...]`` lists, if it does list one."""
    for kind in (Numerics, ConvNumerics):
        if isinstance(annotation, str):  # of a module with postponed annotations
            if annotation.endswith(f"Unpack[{kind.__name__}]"):
                return kind
        elif kind in typing.get_args(annotation):
            return kind
    return None
