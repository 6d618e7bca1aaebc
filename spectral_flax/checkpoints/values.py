# SPDX-License-Identifier: Apache-2.0
"""Conversion of a file's numbers to a model's dtype, refused where this changes them."""

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from spectral_flax.messages import shown


class UnfitValueError(ValueError):
    """An array has values that the model's dtype cannot hold, or that are not finite."""


def converted(value: Any, dtype: Any, *, allow_non_finite: bool = False) -> np.ndarray:
    """Return ``value`` as an array of ``dtype``, rounded but never changed in kind or size.

    Raises:
      UnfitValueError: the values are no numbers, are complex where ``dtype`` is real, are out of
        its range, or are NaN or infinite and that is not allowed. The message is a predicate.
    """
    array, dtype = _as_array(value), np.dtype(dtype)
    if jnp.issubdtype(array.dtype, np.complexfloating) and not jnp.issubdtype(
        dtype, np.complexfloating
    ):
        raise UnfitValueError(f"is {array.dtype}; the model's numbers are real ({dtype.name})")
    with np.errstate(all="ignore"):
        result = array.astype(dtype)
        if not jnp.issubdtype(dtype, np.inexact):
            same = result.astype(array.dtype) == array
            if not (same & ((result < 0) == (array < 0))).all():
                raise UnfitValueError(f"holds numbers that {dtype.name} cannot hold")
            return result
        finite, held = _finite(array), _finite(result)
    if not allow_non_finite and not finite.all():
        count = finite.size - np.count_nonzero(finite)
        raise UnfitValueError(
            f"holds NaN or infinity ({count} of {finite.size} numbers); see allow_non_finite"
        )
    lost = finite & ~held
    if lost.any():
        one = array[lost].ravel()[0]
        raise UnfitValueError(f"holds {one}, which is out of the range of {dtype.name}")
    return result


def _as_array(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever an array-like of another library raises
        raise UnfitValueError(f"cannot be read as an array: {shown(str(error))}") from error
    if array.dtype.kind not in "biufc" and not _of_ml_dtypes(array.dtype):
        raise UnfitValueError(f"holds no numbers but {shown(str(array.dtype))}")
    return array


def _of_ml_dtypes(dtype: np.dtype) -> bool:
    return dtype.type.__module__.startswith(ml_dtypes.__name__)


def _finite(array: np.ndarray) -> np.ndarray:
    if _of_ml_dtypes(array.dtype) and jnp.issubdtype(array.dtype, np.integer):
        return np.ones(array.shape, bool)  # int4 has no isfinite
    return np.isfinite(array)
