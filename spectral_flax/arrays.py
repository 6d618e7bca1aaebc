# SPDX-License-Identifier: Apache-2.0
"""Checks of array arguments, and the dtypes to compute in.

The dtypes are named, not left to JAX's promotion, which ``jax.numpy_dtype_promotion`` may forbid.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def as_array(name: str, value: Any) -> jax.Array:
    """Return ``value`` as an array of JAX (of 64 bits only where ``jax_enable_x64`` is set).

    Raises:
      TypeError: it is not an array of numbers; the message calls it ``name``.
    """
    known = isinstance(value, jax.Array | np.ndarray | np.generic)
    if not known and not hasattr(value, "__jax_array__"):
        kind = "None" if value is None else f"of type {type(value).__name__}"
        raise TypeError(f"{name} is {kind}; expected an array")
    if not (jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool):
        raise TypeError(f"{name} has dtype {value.dtype}; expected an array of numbers")
    return value if isinstance(value, jax.Array) else jnp.asarray(value)


def as_floating(**arrays: Any) -> Any:
    """Return the arguments as arrays of JAX, in their order; a single one is not in a list.

    Raises:
      TypeError: one is not an array of a real floating dtype; it is named.
    """
    result = [as_array(name, value) for name, value in arrays.items()]
    for name, x in zip(arrays, result, strict=True):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} has dtype {x.dtype}; expected a real floating dtype")
    return result[0] if len(result) == 1 else result


def as_fitting(shapes: str, **arrays: Any) -> list[jax.Array]:
    """Return the arguments as floating arrays whose axes fit each other.

    ``shapes`` has a word for each, as in an einsum: axes of one letter have one length, "..." is
    any number of leading axes, the same for all.

    Raises:
      TypeError: as `as_floating`.
      ValueError: they do not fit.
    """
    result = [as_floating(**{name: x}) for name, x in arrays.items()]
    words, sizes = shapes.split(), {}
    for word, x in zip(words, result, strict=True):
        letters = word.removeprefix("...")
        lead = x.ndim - len(letters)
        fits = lead >= 0 if word != letters else lead == 0
        axes = [
            ("...", x.shape[: max(lead, 0)]),
            *zip(letters, x.shape[max(lead, 0) :], strict=False),
        ]
        if not fits or any(sizes.setdefault(*axis) != axis[1] for axis in axes):
            given = ", ".join(str(x.shape) for x in result)
            expected = ", ".join(map(_written_out, words))
            raise ValueError(f"{', '.join(arrays)} have shapes {given}; expected {expected}")
    return result


def _written_out(word):
    letters = word.removeprefix("...")
    return f"[{', '.join(['...'] * (word != letters) + list(letters.upper()))}]"


def wide(*dtypes: DTypeLike) -> np.dtype:
    """Return float64 if it is among floating ``dtypes``, else float32: where to add up."""
    return np.dtype(np.float64 if np.float64 in map(np.dtype, dtypes) else np.float32)


def common(*arrays: jax.Array) -> np.dtype:
    """Return the dtype of floating arrays, or where they differ one that holds all, as `wide`."""
    dtypes = {np.dtype(a.dtype) for a in arrays}
    return dtypes.pop() if len(dtypes) == 1 else wide(*dtypes)


def with_range(dtype: DTypeLike | None) -> DTypeLike | None:
    """Return a dtype that holds sums of many large values: float16 does not, nor their squares."""
    return np.dtype(np.float32) if dtype is not None and np.dtype(dtype) == np.float16 else dtype
