"""The machine that every test finds: eight devices on the CPU, compiled for quickly, and once."""

import gc
import os
from pathlib import Path

import quick_compiler

# In the environment and before JAX is imported, so that the processes of tests find the same.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test's time is XLA's, so it does less. `.ci/run` has tests with all that users get.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", os.environ.get("XLA_FLAGS") or quick_compiler.flags())
# A program is compiled once for all workers, processes and runs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest

from spectral_flax.kept_programs import KEPT_BYTES, drop_oldest

CACHE = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish(session):
    """Let Python look for garbage less often: traces are many objects that die by themselves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    """Drop the oldest programs of a cache that has grown too large, before workers use it."""
    if hasattr(config, "workerinput"):
        return
    drop_oldest(CACHE, KEPT_BYTES)


@pytest.fixture(scope="session")
def mesh():
    """Eight simulated devices along one axis, as a data-parallel user would make them."""
    return jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.fixture(scope="session")
def bucket_server(tmp_path_factory):
    """A server of Google's protocol, which clients of this process find in their environment."""
    from evidence import bucket_server

    found = bucket_server.binary()
    if isinstance(found, str):
        pytest.skip(found)
    server = bucket_server.Server(tmp_path_factory.mktemp("buckets"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bucket_server.environment(server.port).items():
            patch.setenv(name, value)
        # They read it once, when they are imported: not before here.
        fsspec = pytest.importorskip("fsspec")
        fsspec.config.set_conf_env(fsspec.config.conf)
        pytest.importorskip("gcsfs", reason="gcsfs is not installed")
        yield server
    server.stop()


@pytest.fixture
def bucket(bucket_server, request):
    """The address of a folder in a bucket for one test, and the local folder of its objects."""
    from evidence.bucket_server import BUCKET

    name = request.node.name.replace("[", "-").replace("]", "")
    return f"gs://{BUCKET}/{name}", bucket_server.root / BUCKET / name


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Programs compiled for one file of tests are not kept for the next."""
    yield
    jax.clear_caches()
