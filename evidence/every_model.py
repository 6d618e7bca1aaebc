# SPDX-License-Identifier: Apache-2.0
"""Every registered model builds abstractly, lowers for TPU and CUDA, and gathers nothing.

`python -m evidence.every_model ["ffc_*"]`. Full-size models are built in shapes alone. The
forward pass of copies with one block a stage and few features is lowered for both platforms by
`jax.export`, and compiled for eight simulated devices with the batch split among them, where the
all-gathers in the program are counted. Copies of networks that differ in depth alone are one
program, which is looked at once.
"""

import argparse
import functools
import os
import re
import resource
import time

from benchmarks.results import write

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import spectral_flax as sf
from spectral_flax.models.registry import MODELS

NARROW = dict(width=32, encoder_width=32, depths=(1, 1, 1, 1), ratio=0.5, num_classes=3)
# Pixels a side: enough for the 7 x 7 grid of bilinear attention in the third stage; octaves halve
# maps once more, and timm's network has a grid of 8 x 8 in the last.
SMALL, LARGER = 112, {"octave": 128, "bat_resnext": 256}


def forward(model):
    """Return the evaluation-mode call of a model as a pure function, and its state."""
    graphdef, state = nnx.split(model)

    def apply(state, x):
        mode = dict(use_running_average=True, deterministic=True)
        return nnx.view(nnx.merge(graphdef, state), raise_if_not_found=False, **mode)(x)

    return apply, state


def program(name: str) -> str:
    """Return a name that models have in common whose narrow copies are one program."""
    given = name
    name = re.sub(r"resnet(26|101|152)", "resnet50", name).replace("resnet34", "resnet18")
    other = name.replace("resnext101_32x8d", "resnext50_32x4d")
    return other if other in MODELS else given


@functools.cache
def check(name: str, mesh) -> dict:
    """Lower and compile the forward pass of a narrow copy, and count its all-gathers."""
    card, known = sf.card(name), MODELS[name].options
    options = {key: value for key, value in NARROW.items() if key in known}
    side = next((n for kind, n in LARGER.items() if kind in name), SMALL)
    size = (*card.input_size[:-2], *(min(n, side) for n in card.input_size[-2:]))
    if "input_size" in known:
        options["input_size"] = size
    model = sf.abstract_model(name, **options)
    apply, state = forward(model)
    shape = (8, *size, getattr(model, "in_features", 3))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    exported = jax.export.export(jax.jit(apply), platforms=("cuda", "tpu"))(state, x)
    copied, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=copied), state)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)
    text = jax.jit(apply).lower(state, x).compile().as_text()
    gathers = len(re.findall(r" all-gather(?:-start)?\(", text))
    return dict(lowered=exported.platforms == ("cuda", "tpu"), all_gathers=gathers)


def main() -> None:
    """Check all models, or those that match a pattern, and print what fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*")
    names = sf.list_models(parser.parse_args().pattern)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, start = {}, time.perf_counter()
    for i, name in enumerate(names, 1):
        row = dict(built=False, lowered=False, all_gathers=None)
        try:
            model = sf.abstract_model(name)
            leaves = jax.tree.leaves(nnx.state(model))
            row["built"] = all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
            row |= check(program(name), mesh)
        except Exception as error:  # the point is to see every model that fails, and how
            row["error"] = f"{type(error).__name__}: {error}"
        rows[name] = row
        if row != dict(built=True, lowered=True, all_gathers=0):
            print(name, row, flush=True)
        if i % 20 == 0:
            print(f"{i} of {len(names)}, {time.perf_counter() - start:.0f} s", flush=True)
    good = sum(row == dict(built=True, lowered=True, all_gathers=0) for row in rows.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{good} of {len(names)} models build, lower and gather nothing; peak {memory:.1f} GiB")
    write("every_model", rows)


if __name__ == "__main__":
    main()
