# SPDX-License-Identifier: Apache-2.0
"""Models compile for an H100, on a machine that has none.

Forward pass in evaluation mode and gradients in training mode of full-size networks, each in a
process of its own, since XLA ends the process where one of its checks fails. Nothing is tuned: a
product for which XLA's rules find no tiles counts as compiled, for a GPU's autotuner would choose.

Run: pip install "jax[cuda12]"
     python -m evidence.compile_for_gpu ["ffc_*"] [--batch 8]
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies

import spectral_flax as sf

NAMES = (
    *("resnet18", "resnet50", "resnext50_32x4d", "ffc_resnet18", "ffc_resnet50"),
    *("ffc_resnext50_32x4d", "resnet50_bat", "resnet50_nl", "resnet18_srl_fft", "resnet18_srl_lo"),
    *("resnet18_a2", "resnet18_cgnl", "resnet18_glore", "resnet18_rcca", "i3d_resnet50_nl"),
    *("c2d_resnet50_bat3d", "ffc_i3d_resnet50", "pose_resnet50_srl_fft", "unet_srl_fft", "lama"),
)
NO_TILES = "output tile sizes"
# What XLA asks of a device: figures of an H100, as OpenXLA's target_config/specs list them.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def gpus(count: int) -> list:
    """Return H100s to compile for, on a machine that has none, under `environment`."""
    with contextlib.suppress(RuntimeError):
        jax.devices()  # finds the plugin, and then no GPU
    options = dict(platform="cuda", target_config=H100, topology=f"1x{count}x1")
    return list(topologies.get_topology_desc("h100", **options).devices)


def environment() -> dict[str, str]:
    """Return the environment of a process that compiles for GPUs."""
    (toolkit,) = (Path(p) for p in find_spec("nvidia.cuda_nvcc").submodule_search_locations)
    flags = f"--xla_gpu_cuda_data_dir={toolkit} --xla_gpu_autotune_level=0"
    return os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
        "PATH": f"{toolkit / 'bin'}:{os.environ['PATH']}",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    }


def compile_for_gpu(f, *args):
    """Compile ``f`` for arguments that are shapes."""
    sharding = jax.sharding.SingleDeviceSharding(gpus(1)[0])
    place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)
    return jax.jit(f).lower(*jax.tree.map(place, args)).compile()


def one(name: str, batch: int, kind: str) -> None:
    """Compile one program of one model, in this process."""
    training = kind == "gradients"
    mode = dict(use_running_average=not training, deterministic=not training)
    model = nnx.view(sf.abstract_model(name), raise_if_not_found=False, **mode)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x = jax.ShapeDtypeStruct((batch, *sf.card(name).input_size, _channels(name)), jnp.float32)

    def forward(params, rest, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    def loss(params, rest, x):
        return sum(jnp.square(y).mean() for y in jax.tree.leaves(forward(params, rest, x)))

    compile_for_gpu(jax.grad(loss) if training else forward, params, rest, x)


def _channels(name):
    return 4 if name.startswith("lama") else 3


def attempt(name: str, batch: int, kind: str) -> str:
    """Compile in a process of its own; return what became of it."""
    command = [sys.executable, "-m", "evidence.compile_for_gpu", name, "--one", kind]
    command += ["--batch", str(batch)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode == 0:
        return "compiled"
    if NO_TILES in done.stderr:
        return "compiled, but for tiles"
    lines = [s for s in done.stderr.splitlines() if "Check failed" in s or "Error" in s]
    return f"FAILED ({done.returncode}): {(lines or ['?'])[-1][-160:]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", help="a glob of names; default: one of each kind")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--one", choices=("evaluation", "gradients"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return one(given.pattern, given.batch, given.one)
    names = sf.list_models(given.pattern) if given.pattern else NAMES
    if not names:
        parser.error(f"no model matches {given.pattern!r}")
    if find_spec("nvidia") is None or find_spec("nvidia.cuda_nvcc") is None:
        parser.error('needs CUDA\'s compiler: pip install "jax[cuda12]"')
    failures = 0
    for name in names:
        for kind in ("evaluation", "gradients"):
            began = time.perf_counter()
            result = attempt(name, given.batch, kind)
            failures += result.startswith("FAILED")
            print(f"{name:28} {kind:11} {time.perf_counter() - began:5.0f} s  {result}", flush=True)
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
