# SPDX-License-Identifier: Apache-2.0
"""Maps larger than a device: networks with the rows of their maps over several devices.

A forward pass and a training step (gradients of all parameters, batch statistics) are compiled for
eight simulated devices, from shapes alone, with one image for each group of devices that shares
it. Listed are the collectives with their number and bytes on a device, the largest all-gather, and
the temporary memory of a device against that of one device with one image.
With ``--run`` the program is run too: the largest difference of a gradient to one device, relative
to the largest value of that gradient. Those that are zero but for rounding, a thousand roundings of
the largest of all at most, are left out. ``--float64`` tells a fault from the rounding of deep
gradients.
Convolutions are JAX's, as on GPUs and TPUs. With ``--gpu`` programs are compiled for eight H100
GPUs, which need not be there (``pip install "jax[cuda12]"``). With ``--layers`` one fast Fourier
convolution of 64 channels, half of them global, is listed in place of networks, beside its global
path's map.

Run: python -m evidence.rows_over_devices [NAME ...] [--sizes 512 1024] [--meshes 1x8 2x4]
        [--run] [--float64] [--gpu]
     python -m evidence.rows_over_devices --layers --sizes 64 512
"""

import argparse
import functools
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Sequence

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import spectral_flax as sf
from benchmarks.results import write
from evidence.compile_for_gpu import environment, gpus
from spectral_flax.analysis.collectives import collectives
from spectral_flax.kernels.convolution import whole_maps

NAMES = (
    "ffc_resnet50", "resnet50_bat", "resnet50_nl", "lama", "unet_srl_fft", "gfnet_xs", "fno2d"
)  # fmt: skip
CHANNELS = {"lama": 4, "fno2d": 1}
WHOLE = PartitionSpec()


def _options(name, size):
    return {"input_size": (size, size)} if name.startswith("gfnet") else {}


def steps(name: str, size: int) -> dict:
    """Return the forward pass and the training step of a network, and its initial variables."""
    init, apply = sf.init_apply(name, **_options(name, size))

    def forward(variables, images):
        return apply(variables, images)[0]

    def training(variables, images):
        def loss(params):
            given = variables | {"params": params}
            output, new = apply(given, images, train=True, rng=jax.random.key(0))
            return jnp.square(output).mean(), new.get("batch_stats", {})

        return jax.grad(loss, has_aux=True)(variables["params"])

    return {"init": init, "forward": forward, "training": training}


def on_rows(function, mesh):
    """Return the function of images that arrive with their rows over the devices."""
    rows = NamedSharding(mesh, PartitionSpec("data", "space"))
    whole = NamedSharding(mesh, WHOLE)
    compute = lambda variables, images: function(
        variables, jax.lax.with_sharding_constraint(images, rows)
    )
    return jax.jit(compute, in_shardings=(whole, NamedSharding(mesh, PartitionSpec("data"))))


def compiled(function, variables, images):
    return function.lower(variables, images).compile()


def report(program, alone) -> dict:
    """Return what a program moves and keeps, beside what it keeps on one device."""
    text = program.as_text()
    gathers = [collectives(line) for line in text.splitlines() if re.search("all-gather", line)]
    temporary = [p.memory_analysis().temp_size_in_bytes for p in (program, alone)]
    return {
        "collectives": collectives(text),
        "largest all-gather": max((g["all-gather"].bytes for g in gathers if g), default=0),
        "temporary": temporary[0],
        "temporary on one device": temporary[1],
    }


def layers(sizes: Sequence[int]) -> None:
    """Print what a fast Fourier convolution exchanges, for its pairs of transforms and in all."""
    mesh = _mesh(1, jax.device_count())
    rows = NamedSharding(mesh, PartitionSpec("data", "space"))
    for size, lfu in itertools.product(sizes, (False, True)):
        layer = sf.layers.FFC(64, 64, lfu=lfu, rngs=nnx.Rngs(0))
        layer.eval()
        map_bytes = 4 * size * size * layer.global_to_global.expand.in_features
        x = jax.ShapeDtypeStruct((1, size, size, 64), jnp.float32)
        program = jax.jit(layer, in_shardings=rows, out_shardings=rows).lower(x).compile()
        found = collectives(program.as_text())
        print(f"FFC at {size}, {lfu=}: {found}; a map has {map_bytes // mesh.size:,} on a device")


def difference(ours, alone) -> float:
    """Return the largest relative difference of the arrays of two trees that are not zero."""
    pairs = list(zip(*map(jax.tree.leaves, jax.device_get((ours, alone))), strict=True))
    rounding = 1000 * max(np.finfo(b.dtype).eps * np.abs(b).max() for _, b in pairs)
    found = ((np.abs(a - b).max(), np.abs(b).max()) for a, b in pairs)
    return max(float(away / largest) for away, largest in found if largest > rounding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--sizes", nargs="*", type=int, default=[512, 1024])
    parser.add_argument("--meshes", nargs="*", default=["1x8", "2x4"], help="data x space")
    parser.add_argument("--parts", nargs="*", default=["forward", "training"])
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    if given.gpu and os.environ["JAX_PLATFORMS"] == "cpu":
        command = [sys.executable, "-m", "evidence.rows_over_devices", *sys.argv[1:]]
        raise SystemExit(
            subprocess.run(command, env=environment() | {"JAX_PLATFORMS": ""}).returncode
        )
    if given.gpu and (given.run or given.layers):
        parser.error("--gpu compiles networks only; leave --run and --layers out")
    with whole_maps(False), jax.enable_x64(given.float64):
        layers(given.sizes) if given.layers else measure(given)


def _mesh(data, space, gpu=False):
    devices = np.array(gpus(8) if gpu else jax.devices())[: data * space].reshape(data, space)
    return Mesh(devices, ("data", "space"), axis_types=(AxisType.Auto,) * 2)


def _as(dtype, init):
    """Return initial variables with parameters and statistics of a dtype."""
    floating = lambda a: jnp.issubdtype(a.dtype, jnp.floating)
    return jax.tree.map(lambda a: a.astype(dtype) if floating(a) else a, init())


def measure(given: argparse.Namespace) -> None:
    """Compile, and with ``--run`` compute, everything that is asked for, and write the figures."""
    rows = {}
    dtype = jnp.float64 if given.float64 else jnp.float32
    for name, size, part in itertools.product(given.names, given.sizes, given.parts):
        functions = steps(name, size)
        init = functools.partial(functions["init"], jax.random.key(0))
        variables = jax.eval_shape(functools.partial(_as, dtype, init))
        channels = CHANNELS.get(name, 3)
        one = jax.ShapeDtypeStruct((1, size, size, channels), dtype)
        single = compiled(on_rows(functions[part], _mesh(1, 1, given.gpu)), variables, one)
        for shape in given.meshes:
            data, space = map(int, shape.split("x"))
            mesh = _mesh(data, space, given.gpu)
            images = jax.ShapeDtypeStruct((data, size, size, channels), dtype)
            program = compiled(on_rows(functions[part], mesh), variables, images)
            row = report(program, single)
            if given.run:
                drawn = np.random.default_rng(0).standard_normal(images.shape)
                values = _as(dtype, init), jnp.asarray(drawn, dtype)
                alone = single if data == 1 else on_rows(functions[part], _mesh(1, 1))
                row["difference"] = difference(program(*values), alone(*values))
            rows[f"{name} {size} {shape} {part}"] = row
            print_row(f"{name} at {size}, {shape}, {part}", row)
    write("rows_over_devices", rows)


def print_row(title: str, row: dict) -> None:
    share = row["temporary"] / row["temporary on one device"]
    print(f"{title}: temporary memory {row['temporary']:,} bytes, {share:.3f} of one device's")
    for kind, (count, total) in row["collectives"].items():
        largest = f", largest {row['largest all-gather']:,}" if kind == "all-gather" else ""
        print(f"  {kind:20} {count:5} {total:15,} bytes{largest}")
    if "difference" in row:
        print(f"  largest relative difference {row['difference']:.1e}")
    print(end="", flush=True)


if __name__ == "__main__":
    main()
