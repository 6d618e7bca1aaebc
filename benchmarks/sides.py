# SPDX-License-Identifier: Apache-2.0
"""Contestants' calls: ours, PyTorch eager or compiled, and JaxNN, for the same work.

Each is prepared in a process of its own (``benchmarks.turns``) with the settings that its library
is best at: ours keeps freed memory and takes the compiler options of the trainer; PyTorch has each
memory layout, glibc's allocator as it is or told to keep memory, eager or compiled.
"""

import itertools
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.cases import SUITES
from benchmarks.turns import KEPT, Contestant, Prepared

RATE, MOMENTUM = 0.01, 0.9  # of SGD
PRODUCTS = {"float32": "highest", "tf32": "tensorfloat32"}  # JAX's names


def pixels(shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def contestants(given: dict, compiled: bool) -> dict[str, list[Contestant]]:
    """Return the settings of each side for ``given``: suite, name, shape, work and precision."""
    case = SUITES[given["suite"]][given["name"]]
    layouts = ("channels last", "contiguous")
    eager = itertools.product(("eager", "compiled") if compiled else ("eager",), layouts)
    theirs = [
        Contestant(
            f"{mode}, {layout}{', memory kept' if memory else ''}",
            "benchmarks.sides:pytorch",
            given | {"layout": layout, "compiled": mode == "compiled"},
            memory,
        )
        for (mode, layout), memory in itertools.product(eager, ({}, KEPT))
    ]
    sides = {"ours": [Contestant("jit", "benchmarks.sides:ours", given)], "PyTorch": theirs}
    return sides | {
        name: [Contestant(name, function, given)] for name, function in case.others.items()
    }


def ours(suite: str, name: str, shape: Sequence[int], work: str, precision: str) -> Prepared:
    """Prepare a module of this library, jitted as the trainer does."""
    from spectral_flax.kernels.cpu import compiler_options, keep_freed_memory

    keep_freed_memory()
    from flax import nnx

    dtype = _dtype(precision)
    module = SUITES[suite][name].ours(tuple(shape), dtype=dtype, rngs=nnx.Rngs(0))
    evaluating = work == "inference"
    mode = dict(use_running_average=evaluating, deterministic=evaluating)
    module = nnx.view(module, raise_if_not_found=False, **mode)
    return _jitted(module, shape, work, dtype, compiler_options())


def jaxnn(suite: str, name: str, shape: Sequence[int], work: str, precision: str) -> Prepared:
    """Prepare JaxNN's model of that name, jitted as it comes."""
    import jaxnn as peer

    dtype = _dtype(precision)
    module = peer.create_model(name, pretrained=False, **({"dtype": dtype} if dtype else {}))
    (module.eval if work == "inference" else module.train)()
    return _jitted(module, shape, work, dtype, {})


def _dtype(precision: str):
    """Return the type to compute in, None for parameters' own, and set that of products."""
    import jax
    import jax.numpy as jnp

    # A CPU has one float32; there "highest" would rule out forms that round a little more.
    if jax.default_backend() != "cpu" and precision != "bfloat16":
        jax.config.update("jax_default_matmul_precision", PRODUCTS[precision])
    return jnp.bfloat16 if precision == "bfloat16" else None


def _jitted(module, shape, work, dtype, options) -> Prepared:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    network, params, rest = nnx.split(module, nnx.Param, ...)
    x = jnp.asarray(pixels(shape), dtype)
    labels, sgd = jnp.arange(shape[0]), optax.sgd(RATE, momentum=MOMENTUM)

    def forward(params, rest, x):
        merged = nnx.merge(network, params, rest, copy=True)
        y = merged(x).astype(jnp.float32)
        return y, nnx.state(merged, nnx.Not(nnx.Param))

    def mean_square(params, x, rest):
        y, rest = forward(params, rest, x)
        return jnp.square(y).mean(), rest

    def cross_entropy(params, rest, x):
        logits, rest = forward(params, rest, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), rest

    def inference(state, x):
        return forward(*state, x)[0], state

    def gradients(state, x):
        found, rest = jax.grad(mean_square, (0, 1), has_aux=True)(state[0], x, state[1])
        return found, (state[0], rest)

    def training(state, x):
        params, rest, momentum = state
        loss = jax.value_and_grad(cross_entropy, has_aux=True)
        (value, rest), found = loss(params, rest, x)
        updates, momentum = sgd.update(found, momentum, params)
        return value, (optax.apply_updates(params, updates), rest, momentum)

    step = {"inference": inference, "gradients": gradients, "training": training}[work]
    state = (params, rest, sgd.init(params)) if work == "training" else (params, rest)
    begun = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0, compiler_options=options).lower(state, x)
    traced = time.perf_counter()
    compiled = lowered.compile()
    facts = {"tracing": traced - begun, "compiling": time.perf_counter() - traced}
    facts["device"] = jax.devices()[0].device_kind
    kept = [state]

    def run(calls):
        for _ in range(calls):
            result, kept[0] = compiled(kept[0], x)
        jax.block_until_ready((result, kept[0]))

    return Prepared(run, facts, compiled)


def pytorch(
    suite: str,
    name: str,
    shape: Sequence[int],
    work: str,
    precision: str,
    layout: str,
    compiled: bool,
) -> Prepared:
    """Prepare the published form in PyTorch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    amp = precision == "bfloat16"
    kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
    kind = kinds[len(shape)] if layout == "channels last" else torch.contiguous_format
    module = SUITES[suite][name].peer(tuple(shape)).to(device).to(memory_format=kind)
    module.train(work != "inference")
    x = torch.from_numpy(pixels(shape)).movedim(-1, 1).to(device)
    x = x.to(torch.bfloat16 if amp else torch.float32).contiguous(memory_format=kind)
    labels = torch.arange(shape[0], device=device)
    # Ours computes the gradient in the input of an operator, which is in the midst of a network.
    x.requires_grad_(work == "gradients")
    call = torch.compile(module) if compiled else module
    sgd = torch.optim.SGD(module.parameters(), RATE, MOMENTUM) if work == "training" else None

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return call(x).float()

    def inference():
        with torch.inference_mode():
            forward()

    def gradients():
        module.zero_grad(set_to_none=True)
        x.grad = None
        forward().square().mean().backward()

    def training():
        sgd.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(forward(), labels).backward()
        sgd.step()

    step = {"inference": inference, "gradients": gradients, "training": training}[work]

    def run(calls):
        for _ in range(calls):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    facts = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    return Prepared(run, facts)
