# SPDX-License-Identifier: Apache-2.0
"""XLA options and host memory settings for a process that computes on a CPU."""

import ctypes
import importlib.metadata
import importlib.util
import os

import jax

# Of <malloc.h> of the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def compiler_options(platform: str | None = None) -> dict[str, str]:
    """Return XLA options for programs of this library: ``jax.jit(f, compiler_options=...)``.

    Empty but for the CPU, where XLA would ignore ``jax.lax.optimization_barrier``: a value to be
    kept is then computed once more and both are held, and one to be computed again is kept after
    all. ``platform`` is JAX's default one when None.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and return whether it does from now on.

    A program takes its temporary memory when it starts and frees it at its end. The C library
    returns large pieces to the system at once, so that each run pays for every page anew, which
    may be a third of its time. To be called before JAX is first asked to do anything. Nothing is
    changed, and False returned, without the GNU C library, where an accelerator may do the work,
    or where the environment sets ``MALLOC_...`` itself.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or not _computes_on_the_cpu():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # One arena, because those of other threads than the first cannot hold large pieces.
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 1 << 26, _ARENA_MAX: 1}
    return all([mallopt(option, value) == 1 for option, value in options.items()])


def _computes_on_the_cpu():
    platforms = jax.config.jax_platforms
    if platforms:
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
