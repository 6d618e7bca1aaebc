# SPDX-License-Identifier: Apache-2.0
"""Compiled programs on disk: found by the next process, bounded, and of no harm to anything."""

import os
import subprocess
import sys

import jax
import pytest

from spectral_flax.kept_programs import drop_oldest, keep_programs

# A Fourier transform split over two devices: its program holds a function that splits it.
COMPILING = """
import os
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import spectral_flax as sf
from spectral_flax.kept_programs import keep_programs

print(os.listdir(os.environ["SPECTRAL_FLAX_CACHE"]))
keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("data"))
x = jax.ShapeDtypeStruct((4, 20, 20, 2), jnp.float32, sharding=split)
jax.jit(sf.functional.rfft2).lower(x).compile()
"""


def compile_in_a_process(cache):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "SPECTRAL_FLAX_CACHE": str(cache),
    }
    command = [sys.executable, "-c", COMPILING]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


def test_the_next_process_finds_what_one_has_compiled(tmp_path):
    first = compile_in_a_process(tmp_path)
    assert first.stdout == "[]\n"  # an import has written nothing
    programs = tmp_path / "programs"
    assert str(programs) in first.stderr
    found = {path: path.stat().st_mtime_ns for path in programs.iterdir()}
    assert found
    second = compile_in_a_process(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in programs.iterdir()} == found
    assert second.stderr == ""


@pytest.fixture
def no_cache():
    """JAX as a user finds it; the cache of the tests is put back."""
    cache = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", cache)


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path, monkeypatch, no_cache, capsys):
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("SPECTRAL_FLAX_CACHE", str(in_the_way))
    assert keep_programs() is None
    assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ["jax_compilation_cache_dir", "jax_enable_compilation_cache"])
def test_what_the_user_says_of_the_cache_holds(tmp_path, monkeypatch, no_cache, option):
    monkeypatch.setenv("SPECTRAL_FLAX_CACHE", str(tmp_path / "cache"))
    before, value = getattr(jax.config, option), {"jax_compilation_cache_dir": str(tmp_path)}
    jax.config.update(option, value.get(option, False))
    try:
        assert keep_programs() is None
        assert not (tmp_path / "cache").exists()
    finally:
        jax.config.update(option, before)


def test_the_oldest_programs_are_dropped(tmp_path):
    for age, name in enumerate(["new-cache", "old-cache", "oldest-cache", "other"]):
        (tmp_path / name).write_bytes(b"0" * 10)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    drop_oldest(tmp_path, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"new-cache", "old-cache", "other"}
