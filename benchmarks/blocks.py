# SPDX-License-Identifier: Apache-2.0
"""Time and peak temporary memory of every block against its formula written out.

Images ``[8, 28, 28, 256]``, videos ``[2, 4, 28, 28, 256]``, forward and forward + backward, and
the memory of non-local attention at 128 x 128 positions. Outputs and gradients of both forms
are compared before anything is measured. Aims: bilinear attention at least twice as fast as by
Kronecker products; non-local attention in a tenth of the memory of its full map.

Run: python -m benchmarks.blocks [--blocks nl bat] [--repeats 10] [--small]
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import published_forms
from benchmarks.published_forms import plain
from benchmarks.results import write
from spectral_flax.functional import bilinear_product
from spectral_flax.layers.blocks import BLOCKS, block


def functions(module, form):
    """Return forward, and forward + backward, of parameters and a map."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def forward(params, x):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return (plain(merged) if form == "plain" else merged)(x)

    def backward(params, x):
        y, pull = jax.vjp(forward, params, x)
        return y, pull(x)  # the map itself serves as the cotangent: any fixed array does

    return {"forward": forward, "forward + backward": backward}, params


def seconds(compiled, arguments, repeats):
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def temporary_mib(call, *arguments):
    """Return the peak of temporary memory that the compiler plans."""
    # On CPU some fused matrix products allocate for themselves, unseen by the plan.
    cpu = jax.default_backend() == "cpu"
    options = {"xla_cpu_experimental_ynn_fusion_type": ""} if cpu else {}
    compiled = jax.jit(call).lower(*arguments).compile(compiler_options=options)
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def make(name, features, rank, size):
    options = dict(dropout=0.0) if name.startswith("bat") else {}
    module = block(name, features, rank=rank, size=size[-2:], rngs=nnx.Rngs(0), **options)
    for path, p in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        if path[-1] in ("gate", "gamma", "scale"):
            p[...] = jnp.full_like(p[...], 0.5)
    return nnx.view(module, raise_if_not_found=False, use_running_average=True)


def measure(name, shape, repeats):
    module = make(name, shape[-1], len(shape) - 2, shape[1:-1])
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    rows, results = [], {}
    for form in ("ours", "plain"):
        calls, params = functions(module, form)
        for what, call in calls.items():
            compiled = jax.jit(call).lower(params, x).compile()
            results[form, what] = compiled(params, x)
            rows.append(
                {
                    "block": name,
                    "shape": list(shape),
                    "form": form,
                    "what": what,
                    "ms": 1e3 * seconds(compiled, (params, x), repeats),
                    "MiB": temporary_mib(call, params, x),
                }
            )
    for what in ("forward", "forward + backward"):
        ours, other = (jax.tree.leaves(results[form, what]) for form in ("ours", "plain"))
        # Gradients that vanish in theory (of a key's bias) are compared with the largest one, by
        # norms, since rounding may move a maximum or a ReLU here and there.
        scale = max(float(jnp.linalg.norm(leaf.ravel())) for leaf in other)
        pairs = zip(ours, other, strict=True)
        worst = max(float(jnp.linalg.norm((a - b).ravel())) for a, b in pairs)
        if not worst < 1e-3 * scale:
            raise SystemExit(f"{name} {what}: the forms differ by {worst / scale:.1e}")
    return rows


def non_local_memory(side):
    """Return temporary MiB of a non-local block at side x side positions, of both forms."""
    module = make("nl", 64, 2, (side, side))
    x = jax.ShapeDtypeStruct((1, side, side, 64), jnp.float32)
    row = {"side": side}
    for form in ("ours", "plain"):
        calls, params = functions(module, form)
        for what, call in calls.items():
            row[f"{form} {what}"] = temporary_mib(call, params, x)
    return row


def product_rows(sides, repeats):
    """Time the product P X Q of bilinear attention alone, 4 groups of 7 x 7, in both forms."""

    def kronecker(x, p, q):
        p, q = (published_forms.kronecker(m, x.shape[1]) for m in (p, q))
        p, q = (jnp.repeat(m, x.shape[-1] // 4, -3) for m in (p, q))
        return jnp.moveaxis(p @ jnp.moveaxis(x, -1, -3) @ q, -3, -1)

    rows, rng = [], np.random.default_rng(0)
    for side in sides:
        x = jnp.asarray(rng.standard_normal((8, side, side, 128)), jnp.float32)
        matrices = [jnp.asarray(rng.random((8, 4, 7, 7)), jnp.float32) for _ in range(2)]
        for what, wrap in {
            "forward": lambda f: f,
            "forward + backward": lambda f: lambda *a: jax.vjp(f, *a)[1](a[0]),
        }.items():
            row = {"side": side, "what": what}
            for form, f in {"ours": bilinear_product, "kronecker": kronecker}.items():
                compiled = jax.jit(wrap(f)).lower(x, *matrices).compile()
                row[form] = 1e3 * seconds(compiled, (x, *matrices), repeats)
            rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="a quick run of the command itself")
    given = parser.parse_args()
    side, features, batch = (14, 32, 1) if given.small else (28, 256, 8)
    shapes = [(batch, side, side, features), (max(1, batch // 4), 4, side, side, features)]
    rows = []
    print(f"{'block':9}{'shape':24}{'what':20}{'ms':>9}{'plain':>9}{'ratio':>7}"
          f"{'MiB':>9}{'plain':>9}{'ratio':>7}")  # fmt: skip
    for name in given.blocks:
        for shape in shapes[1:] if name == "bat3d" else shapes:
            new = measure(name, shape, given.repeats)
            rows += new
            for ours, other in zip(new[:2], new[2:], strict=True):
                print(
                    f"{name:9}{shape!s:24}{ours['what']:20}"
                    f"{ours['ms']:9.2f}{other['ms']:9.2f}{other['ms'] / ours['ms']:7.2f}"
                    f"{ours['MiB']:9.1f}{other['MiB']:9.1f}{other['MiB'] / ours['MiB']:7.2f}"
                )
    products = product_rows((14,) if given.small else (28, 56, 112), given.repeats)
    for row in products:
        print(
            f"BAT product, 8 x {row['side']}² x 128, {row['what']:20}{row['ours']:9.2f}"
            f"{row['kronecker']:9.2f}{row['kronecker'] / row['ours']:7.2f}"
        )
    memory = non_local_memory(48 if given.small else 128)
    print("non-local, one map of 64 channels, temporary MiB:", json.dumps(memory))
    device = jax.devices()[0]
    result = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "rows": rows,
        "non_local_memory": memory,
    }
    if not given.small:
        write("blocks", result)


if __name__ == "__main__":
    main()
