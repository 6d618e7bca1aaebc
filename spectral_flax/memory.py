# SPDX-License-Identifier: Apache-2.0
"""Memory of a program before it is compiled, and what a device has left."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.extend import core

from spectral_flax.messages import quoted

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?\s*", re.IGNORECASE)


def parse_memory(text: str | int) -> int:
    """Return the bytes of ``8GiB``, ``8G`` (the same), ``500MiB`` or a number of bytes.

    Raises:
      ValueError: it is not a positive size.
    """
    found = _SIZE.fullmatch(str(text))
    size = float(found[1]) * _UNITS[found[2].upper()] if found else 0
    if not 1 <= size < math.inf:
        raise ValueError(f"{quoted(text)} is not a size of memory such as 8GiB or 500MiB")
    return int(size)


def shown_memory(size: float) -> str:
    """Return bytes as people read them: ``3.2 GiB``, ``71 MiB``, ``100 B``."""
    if size < 2**20:
        return f"{math.ceil(size)} B"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{math.ceil(size / 2**20)} MiB"


def available_memory(device: jax.Device) -> int | None:
    """Return the bytes that a program may take on a device; None where that is not known.

    On the CPU it is what the system says that can be had without swapping, or what is left to
    the process's control group where that is less.
    """
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu":
        return None
    left = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) * 1024)
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        left.append(int(limit[0]) - int(used[0]))
    return max(min(left), 0) if left else None


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def peak_memory(jaxpr: core.Jaxpr) -> int:
    """Return the most bytes that are alive at once as a traced program runs, arguments apart.

    Each operation is taken to write its results, but for repetitions of smaller arrays, and inputs
    to be freed after their last use. A compiler fuses operations, which saves some of it, and needs
    space of its own for others.
    """
    last = {}
    for time, eqn in enumerate(jaxpr.eqns):
        last |= dict.fromkeys(_variables(eqn.invars), time)
    last |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    free = {*jaxpr.invars, *jaxpr.constvars}  # variables that take nothing, or nothing of it
    alive = peak = 0
    for time, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name in ("broadcast_in_dim", "iota"):
            free |= {*eqn.outvars}
        results = sum(_size(v) for v in eqn.outvars if v not in free)
        inner = max((peak_memory(body) for body in inner_jaxprs(eqn)), default=0)
        peak = max(peak, alive + max(results, inner))
        alive += sum(_size(v) for v in eqn.outvars if v in last and v not in free)
        ended = {v for v in _variables(eqn.invars) if last[v] == time} - free
        alive -= sum(map(_size, ended))
    return peak


def convolution_space(jaxpr: core.Jaxpr) -> int:
    """Return the most bytes beside a program's own that a convolution takes on the CPU.

    XLA's convolution of an input that is spread out, as in transposed ones, takes up to a sixth of
    all windows (measured: an eighth, for LaMa's). The others take little.
    """
    most = max(
        (convolution_space(body) for eqn in jaxpr.eqns for body in inner_jaxprs(eqn)), default=0
    )
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated" and {*eqn.params["lhs_dilation"]} != {1}:
            numbers, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
            window = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            features = eqn.outvars[0].aval.shape[numbers.out_spec[1]]
            most = max(most, _size(eqn.outvars[0]) // features * window // 6)
    return most


def inner_jaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yield the programs inside an operation: bodies of loops, branches, functions."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if hasattr(jaxpr, "eqns") and hasattr(jaxpr, "invars"):
                yield jaxpr


def _variables(atoms) -> set:
    return {atom for atom in atoms if not isinstance(atom, core.Literal)}


def _size(variable) -> int:
    aval = variable.aval
    return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "shape") else 0
