# SPDX-License-Identifier: Apache-2.0
"""What a program costs before it first runs: tracing, lowering, compiling, cold and warm.

`python -m benchmarks.compilation [--models ffc_resnet50 resnet50] [--work training inference]
[--batch 4] [--size 224] [--calls 0]`. Two fresh processes for each program, of which the second
finds what the first one has compiled in a cache of their own. A step is forward, backward and
SGD. Wall clock and, since a busy machine stretches that, processor time of all threads; with
``--calls`` also the median of so many calls, as a change for the compiler may cost there.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.results import write

# Options beyond the published defaults.
OPTIONS = {"ffc_resnet50": {"lfu": True}}


def program(name: str, training: bool, batch: int, size: int):
    """Return the function, jitted, and the shapes of its arguments."""
    import jax
    import jax.numpy as jnp

    import spectral_flax as sf
    from spectral_flax.kernels.cpu import compiler_options

    init, apply = sf.init_apply(name, **OPTIONS.get(name, {}))
    variables = jax.eval_shape(init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)

    def loss(params, variables, images):
        logits, variables = apply(variables | {"params": params}, images, train=True)
        return -jax.nn.log_softmax(logits)[:, 0].mean(), variables

    def step(variables, images):
        params = variables["params"]
        gradients, variables = jax.grad(loss, has_aux=True)(params, variables, images)
        params = jax.tree.map(lambda a, g: a - 0.01 * g, params, gradients)
        return variables | {"params": params}

    def inference(variables, images):
        return apply(variables, images)[0]

    options = dict(compiler_options=compiler_options(), donate_argnums=0 if training else ())
    return jax.jit(step if training else inference, **options), (variables, images)


def measured(name: str, training: bool, batch: int, size: int, calls: int) -> dict:
    """Return the seconds of each part in this process, and counts of operations."""
    import jax
    import jax.numpy as jnp

    jax.devices()
    jitted, shapes = program(name, training, batch, size)
    found: dict = {}
    with _timed(found, "trace"):
        traced = jitted.trace(*shapes)
    with _timed(found, "lower"):
        lowered = traced.lower()
    with _timed(found, "compile"):
        compiled = lowered.compile()
    text = compiled.as_text()
    counts = {kind: text.count(f" {kind}(") for kind in ("fusion", "dot", "fft", "convolution")}
    found["operations"] = {"lowered": lowered.as_text().count("\n"), **counts}
    found["memory"] = compiled.memory_analysis().temp_size_in_bytes
    values = jax.tree.map(lambda a: jnp.full(a.shape, 0.01, a.dtype), shapes)
    times = []
    for _ in range(calls):
        begun = time.process_time()
        result = jax.block_until_ready(compiled(*values))
        times.append(time.process_time() - begun)
        values = (result, values[1]) if training else values
    found["call"] = statistics.median(times) if times else None
    return found


@contextlib.contextmanager
def _timed(found: dict, part: str):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    found[part] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def in_a_process(cache: str, arguments: list) -> dict:
    """Return what `measured` finds in a fresh process that keeps its programs in ``cache``."""
    code = (
        "import json, sys; from benchmarks.compilation import measured; "
        "from spectral_flax.kept_programs import keep_programs; keep_programs(); "
        "print(json.dumps(measured(*json.loads(sys.argv[1]))))"
    )
    given = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", code, json.dumps(arguments)]
    environment = given | {"SPECTRAL_FLAX_CACHE": cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ffc_resnet50", "resnet50"])
    works = ("training", "inference")
    parser.add_argument("--work", nargs="+", choices=works, default=works)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--calls", type=int, default=0)
    given = parser.parse_args()
    rows: dict = {}
    for name in given.models:
        for work in given.work:
            arguments = [name, work == "training", given.batch, given.size, given.calls]
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    found = in_a_process(cache, arguments)
                    rows[f"{name}, {work}, {state}"] = found
                    print(f"{name}, {work}, {state}: {_told(found)}", flush=True)
    write("compilation", {"load": os.getloadavg(), "cores": os.cpu_count(), "rows": rows})


def _told(found: dict) -> str:
    parts = [
        f"{part} {found[part]['wall']:.1f} s (CPU {found[part]['cpu']:.1f})"
        for part in ("trace", "lower", "compile")
    ]
    call = "" if found["call"] is None else f", a call {1000 * found['call']:.0f} ms of CPU"
    memory = f"{found['memory'] / 2**20:.0f} MiB"
    return f"{', '.join(parts)}; {found['operations']}, {memory}{call}"


if __name__ == "__main__":
    main()
