# SPDX-License-Identifier: Apache-2.0
"""Compiled programs kept on disk, so that a process that starts again need not compile them.

JAX's persistent compilation cache, in the user's cache folder and of a bounded size. A library
that is imported writes nothing: `keep_programs` is for processes that are this library's own.
"""

import pathlib
import sys
import tempfile

import jax

from spectral_flax.files import cache_folder

KEPT_BYTES = 2**30
COMPILED_FOR_SECONDS = 0.1
"""What compiles in less time is not kept: reading its file would take as long."""


def keep_programs() -> pathlib.Path | None:
    """Let JAX keep what this process compiles, and return the folder; None if it is not to.

    The folder is ``programs`` in the cache folder, and the oldest programs beyond `KEPT_BYTES` are
    dropped from it now. When it is made, a line on the standard error says so. Nothing is changed
    where JAX has a cache or is told to have none (``JAX_COMPILATION_CACHE_DIR``,
    ``JAX_ENABLE_COMPILATION_CACHE``), or where nothing can be written. Processes may share the
    folder. Whoever can write to it can run code in this process.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return None
    try:
        folder = cache_folder() / "programs"
        is_new = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # it may be there, and not ours to write to
            pass
        drop_oldest(folder, KEPT_BYTES)
    except (OSError, RuntimeError):  # no home, or a full or read-only disk
        return None
    if is_new:
        print(
            f"compiled programs are kept in {folder}, {KEPT_BYTES >> 20} MiB of them at most; "
            "remove that folder to clear them, set JAX_ENABLE_COMPILATION_CACHE=false to keep none",
            file=sys.stderr,
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", COMPILED_FOR_SECONDS)
    # Otherwise programs for several devices would hold addresses of this process, and be found by
    # no other. What those stand for is in the program too: see `batch_parallel`.
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)
    return folder


def drop_oldest(folder: pathlib.Path, limit: int) -> None:
    """Remove the oldest programs of a cache of JAX's until they have ``limit`` bytes or fewer."""
    found = []
    for path in folder.glob("*-cache"):
        try:
            found.append((path.stat().st_mtime, path.stat().st_size, path))
        except FileNotFoundError:  # another process has dropped it
            continue
    kept = 0
    for _, size, path in sorted(found, reverse=True):
        kept += size
        if kept > limit:
            path.unlink(missing_ok=True)
