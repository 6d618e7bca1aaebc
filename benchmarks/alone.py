# SPDX-License-Identifier: Apache-2.0
"""Models of both libraries, each alone in its process; the processes take turns.

A contestant is ours, or PyTorch eager or compiled: it gets the whole machine, its own waiting
policy and allocator, and does the whole of the work: an inference, or a training step with
cross-entropy and the update of SGD with momentum. Each process reports the median over groups of
calls; the turns go A B C, A B C, so that a slow minute of the machine befalls all. A peer's
numbers are checked against the published ones before anything is timed.

Run: python -m benchmarks.alone [--models resnet50 ffc_resnet50_lfu] [--batch 4] [--turns 2]
         [--contestants ours eager compiled] [--work inference training] [--amp]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# Above this share of the cores at work for others, the times are marked.
BUSY = 0.25


def ours(given):
    """Return the call, the seconds of tracing and compiling, and the bytes it plans."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    import spectral_flax as sf
    from benchmarks.models import MODELS, pixels
    from spectral_flax.kernels.cpu import compiler_options

    shape, dtype = MODELS[given.model].shape(given), jnp.bfloat16 if given.amp else jnp.float32
    model = sf.create_model(
        MODELS[given.model].name, **MODELS[given.model].options, dtype=dtype, rngs=nnx.Rngs(0)
    )
    training = given.work == "training"
    mode = dict(use_running_average=not training, deterministic=not training)
    model = nnx.view(model, raise_if_not_found=False, **mode)
    network, params, rest = nnx.split(model, nnx.Param, ...)
    x, labels = jnp.asarray(pixels(shape), dtype), jnp.arange(shape[0])
    sgd = optax.sgd(0.01, momentum=0.9)

    def inference(state, x):
        return nnx.merge(network, state[0], state[1], copy=True)(x), state

    def loss(params, rest, x):
        model = nnx.merge(network, params, rest, copy=True)
        logits = model(x).astype(jnp.float32)
        rest = nnx.state(model, nnx.Not(nnx.Param))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rest

    def step(state, x):
        params, rest, momentum = state
        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(params, rest, x)
        updates, momentum = sgd.update(gradients, momentum, params)
        return value, (optax.apply_updates(params, updates), rest, momentum)

    state = (params, rest, sgd.init(params)) if training else (params, rest)
    jitted = jax.jit(
        step if training else inference, donate_argnums=0, compiler_options=compiler_options()
    )
    begun = time.perf_counter()
    compiled = jitted.lower(state, x).compile()
    seconds = time.perf_counter() - begun
    memory = compiled.memory_analysis()
    kept = [state]

    def group(calls):
        for _ in range(calls):
            result, kept[0] = compiled(kept[0], x)
        jax.block_until_ready(result)

    return group, seconds, memory.temp_size_in_bytes + memory.output_size_in_bytes


def theirs(given):
    """Return PyTorch's call, the seconds of its first call, and the bytes it came to hold."""
    import torch

    from benchmarks.models import MODELS, peer, pixels

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    shape, training = MODELS[given.model].shape(given), given.work == "training"
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    module = peer(given.model).to(device).to(memory_format=layout).train(training)
    x = torch.from_numpy(pixels(shape)).to(device)
    # The strides of a map with channels last, without a copy.
    x = x.movedim(-1, 1).to(torch.bfloat16 if given.amp else torch.float32)
    labels = torch.arange(shape[0], device=device)
    run = torch.compile(module) if given.contestant == "compiled" else module
    sgd = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=given.amp):
            return run(x)

    def call():
        if training:
            sgd.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(forward().float(), labels).backward()
            sgd.step()
        else:
            with torch.inference_mode():
                forward()

    def group(calls):
        for _ in range(calls):
            call()
        if device == "cuda":
            torch.cuda.synchronize()

    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    begun = time.perf_counter()
    group(1)
    seconds = time.perf_counter() - begun
    held = torch.cuda.max_memory_allocated() - before if device == "cuda" else None
    return group, seconds, held


def work(given):
    """Time one contestant and print the result."""
    group, first, held = (ours if given.contestant == "ours" else theirs)(given)
    group(2)
    times = []
    for _ in range(given.groups):
        begun = time.perf_counter()
        group(given.calls)
        times.append((time.perf_counter() - begun) / given.calls)
    print(json.dumps({"seconds": times, "first": first, "bytes": held}))


def turn(given, model, what, contestant):
    """Return what a process that times one contestant prints, or why it has nothing to say."""
    command = [sys.executable, "-m", "benchmarks.alone", *sys.argv[1:]]
    command += ["--contestant", contestant, "--model", model, "--work", what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=given.limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {given.limit} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def compare(given, model, what):
    """Return the row of a model: seconds of each contestant, and the ratios to ours."""
    turns = {contestant: [] for contestant in given.contestants}
    for _ in range(given.turns):
        for contestant, results in turns.items():
            if not (results and "failed" in results[-1]):
                results.append(turn(given, model, what, contestant))
    row = {"model": model, "work": what, "turns": turns}
    for contestant, results in turns.items():
        if "failed" in results[-1]:
            print(f"{model} {what} {contestant:9} failed: {results[-1]['failed']}", flush=True)
            continue
        medians = [1e3 * statistics.median(r["seconds"]) for r in results]
        row[contestant] = statistics.median(medians)
        ratio = f"{row[contestant] / row['ours']:5.2f} x ours" if "ours" in row else ""
        print(
            f"{model:20} {what:9} {contestant:9} {row[contestant]:9.2f} ms {ratio:12} turns "
            f"{' '.join(f'{m:.2f}' for m in medians)}  first call {results[0]['first']:.0f} s  "
            f"{(results[0]['bytes'] or 0) / 2**20:.0f} MiB",
            flush=True,
        )
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet50", "ffc_resnet50_lfu"])
    parser.add_argument("--contestants", nargs="+", default=["ours", "eager", "compiled"])
    parser.add_argument("--work", nargs="+", default=["inference", "training"])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--amp", action="store_true", help="bfloat16")
    parser.add_argument("--turns", type=int, default=2, help="processes of each contestant")
    parser.add_argument("--groups", type=int, default=7, help="times that a process takes")
    parser.add_argument("--calls", type=int, default=1, help="calls in each of them")
    parser.add_argument("--limit", type=int, default=900, help="seconds that a process may take")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.quick, given.no_torch = False, "ours" in given.contestants[1:]
    if given.contestant:
        given.work = given.work[0]
        return work(given)
    from benchmarks import harness
    from benchmarks.models import MODELS

    if given.contestants != ["ours"]:
        from benchmarks.peers.validate import validate

        for case in sorted({MODELS[name].case for name in given.models}):
            validate(case)
    load = os.getloadavg()[0] / os.cpu_count()
    if load > BUSY:
        print(f"the machine is busy: load {load:.2f} a core; do not publish these times")
    rows = [compare(given, model, what) for model in given.models for what in given.work]
    about = harness.about() | {"load_a_core": round(load, 2), "amp": given.amp}
    harness.save("alone", {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
