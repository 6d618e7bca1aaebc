# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays and scalars in a pickle, rebuilt from the recorded calls without calling them."""

import math
import re
from typing import Any

import numpy as np

from spectral_flax.checkpoints.budget import Budget
from spectral_flax.checkpoints.torch.pickle_values import Foreign, Global
from spectral_flax.messages import shown

_CODE = re.compile(r"[<>|=]?(b1|i[1248]|u[1248]|f[248]|c(8|16))")
# NumPy 1 and 2 keep these functions at different places.
_MAKERS = {
    f"numpy.{core}.{module}.{name}": name.strip("_")
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
}


def is_array(node: Any, *, scalars: bool = True) -> bool:
    """Whether a value of a pickle stands for a NumPy array (or scalar)."""
    kind = _MAKERS.get(node.name) if isinstance(node, Foreign) else None
    return kind is not None and (scalars or kind != "scalar")


def as_array(node: Foreign, budget: Budget) -> np.ndarray:
    """Return a NumPy array or scalar as a read-only array in this machine's byte order.

    Raises ValueError, with the reason, for what holds no numbers (objects, texts, records) and for
    a description that does not fit its bytes.
    """
    kind = _MAKERS[node.name]
    if kind == "scalar":
        (dtype, data), shape, order = _exactly(2, node.args), (), "C"
    elif kind == "frombuffer":
        data, dtype, shape, order = _exactly(4, node.args)
    else:
        _, shape, dtype, fortran, data = _exactly(5, node.state)
        order = "F" if fortran else "C"
    dtype = _dtype(dtype)
    whole = isinstance(shape, tuple) and len(shape) <= 32
    if not whole or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError(f"a NumPy array has the shape {shown(shape)}")
    data = _bytes(data, budget)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"a NumPy array of shape {shown(shape)} has {len(data)} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
    if not dtype.isnative:
        budget.spend(len(data))
        array = array.astype(dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def _dtype(node: Any) -> np.dtype:
    """Return a dtype of plain numbers from its record: a code, and a state with its byte order."""
    if not isinstance(node, Foreign) or node.name != "numpy.dtype" or not node.args:
        raise ValueError("a NumPy array has no dtype of numbers")
    code, state = node.args[0], node.state
    if isinstance(code, Global):
        code = np.dtype(code.name.removeprefix("numpy.")).str if code.name in _SCALARS else ""
    if not isinstance(code, str) or len(code) > 8 or not _CODE.fullmatch(code):
        raise ValueError(f"it is a NumPy array of dtype {shown(code)}, which holds no numbers")
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    dtype = np.dtype(code)
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype


_SCALARS = {f"numpy.{kind.__name__}" for kind in np.sctypeDict.values() if np.dtype(kind).num < 16}


def _bytes(data: Any, budget: Budget) -> bytes:
    if isinstance(data, Foreign) and data.name == "_codecs.encode":  # in protocols before 3
        data = data.args[0] if data.args else None
    elif isinstance(data, Foreign) and data.name == "builtins.bytes" and not data.args:
        data = b""
    if isinstance(data, str):  # as Python 2 wrote bytes
        budget.spend(len(data))
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("a NumPy array has no bytes")
    return data


def _exactly(count: int, values: Any) -> tuple:
    if not isinstance(values, tuple) or len(values) != count:
        raise ValueError("a NumPy array is damaged")
    return values
