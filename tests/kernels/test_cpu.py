# SPDX-License-Identifier: Apache-2.0
"""What a process on a CPU sets up: options of the compiler, and the memory that it keeps."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from spectral_flax.kernels.cpu import compiler_options

KEEPING = """
import numpy as np
from spectral_flax.kernels.cpu import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

kept = keep_freed_memory()
del_me = np.ones(1 << 26, np.uint8)
before = resident()
del del_me
print(int(kept), (before - resident()) >> 20)
"""


def run(**environment):
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    process = subprocess.run(
        [sys.executable, "-c", KEEPING],
        env=plain | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    kept, returned = map(int, process.stdout.split())
    return bool(kept), returned


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
def test_freed_memory_is_kept():
    kept, returned = run(JAX_PLATFORMS="cpu")
    if not kept:
        pytest.skip("another C library")
    assert returned < 32


@pytest.mark.skipif(sys.platform != "linux", reason="of the GNU C library")
@pytest.mark.parametrize("environment", [{"JAX_PLATFORMS": "cuda"}, {"MALLOC_ARENA_MAX": "4"}])
def test_memory_is_left_alone_where_others_decide(environment):
    kept, returned = run(**environment)
    assert not kept
    assert returned >= 32


def test_barriers_hold_under_the_options():
    @jax.jit
    def f(x):
        centred = lax.optimization_barrier(x - x.mean())
        return jnp.square(centred).mean(), centred * 2

    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 64)), jnp.float32)
    lowered = f.lower(x)
    assert "opt-barrier" in lowered.compile(compiler_options=compiler_options("cpu")).as_text()
    assert "opt-barrier" not in lowered.compile().as_text()


def test_other_platforms_have_no_options():
    assert compiler_options("gpu") == {}
    assert compiler_options("tpu") == {}
