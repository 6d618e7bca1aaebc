# SPDX-License-Identifier: Apache-2.0
"""Time and memory of one model on this machine, in a process of its own.

Run: python -m spectral_flax.analysis.measure '{"model": "resnet50", "work": "training"}'
"""

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.kernels.cpu import compiler_options, keep_freed_memory
from spectral_flax.models.registry import create_model
from spectral_flax.plugins import import_plugins

# For a process that counts while others measure: it leaves them the accelerator's memory.
SPARING = ("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
Work = Literal["inference", "training"]


class MeasurementError(RuntimeError):
    """A model could not be measured; the message says why."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a call of a model takes.

    ``seconds`` is the median of the calls, ``compile_seconds`` what tracing and compiling took.
    ``memory`` is in bytes: the device's peak, or on a CPU, which keeps no record, what the program
    plans for its arguments, its results and in between.
    """

    seconds: float
    compile_seconds: float
    memory: int


def measure(
    model: str,
    shape: Sequence[int],
    *,
    work: Work = "inference",
    options: Mapping[str, Any] | None = None,
    seconds: float = 3.0,
) -> Measurement:
    """Measure calls of ``model`` on an input of ``shape``, or steps of its training, right here.

    A step of training is the gradient of the cross-entropy (of the mean square, where the model
    gives maps), and the update of stochastic gradient descent with momentum. Calls follow each
    other for ``seconds``, three of them at least.

    Raises:
      ValueError: the model has no such option or takes no such input, or ``work`` is unknown.
    """
    if work not in ("inference", "training"):
        raise ValueError(f"work={work!r}; expected 'inference' or 'training'")
    network = create_model(model, **dict(options or {}))
    step, state = (_training if work == "training" else _inference)(network, shape)
    x = jax.random.normal(jax.random.key(1), tuple(shape))
    begun = time.perf_counter()
    jitted = jax.jit(step, donate_argnums=0, compiler_options=compiler_options())
    compiled = jitted.lower(state, x).compile()
    compile_seconds = time.perf_counter() - begun
    times: list[float] = []
    for i in range(10_000):
        begun = time.perf_counter()
        result, state = compiled(state, x)
        jax.block_until_ready(result)
        if i:  # the first call touches memory for the first time
            times.append(time.perf_counter() - begun)
        if len(times) >= 3 and sum(times) > seconds:
            break
    return Measurement(statistics.median(times), compile_seconds, _memory(compiled))


def _inference(network: nnx.Module, shape: Sequence[int]) -> tuple[Callable, Any]:
    mode = dict(use_running_average=True, deterministic=True)
    graphdef, state = nnx.split(nnx.view(network, raise_if_not_found=False, **mode))
    return lambda state, x: (nnx.merge(graphdef, state, copy=True)(x), state), state


def _training(network: nnx.Module, shape: Sequence[int]) -> tuple[Callable, Any]:
    mode = dict(use_running_average=False, deterministic=False)
    view = nnx.view(network, raise_if_not_found=False, **mode)
    graphdef, params, rest = nnx.split(view, nnx.Param, ...)

    def loss(params, rest, x):
        model = nnx.merge(graphdef, params, rest, copy=True)
        y = model(x).astype(jnp.float32)
        rest = nnx.state(model, nnx.Not(nnx.Param))
        if y.ndim != 2:
            return jnp.square(y).mean(), rest
        labels = jnp.arange(shape[0]) % y.shape[-1]
        return -jnp.take_along_axis(jax.nn.log_softmax(y), labels[:, None], 1).mean(), rest

    def step(state, x):
        params, rest, momentum = state
        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(params, rest, x)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradients)
        params = jax.tree.map(lambda p, m: p - 0.01 * m, params, momentum)
        return value, (params, rest, momentum)

    return step, (params, rest, jax.tree.map(jnp.zeros_like, params))


def _memory(compiled: jax.stages.Compiled) -> int:
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak:
        return peak
    plan = compiled.memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held + plan.temp_size_in_bytes


def measure_alone(
    model: str, shape: Sequence[int], *, plugins: Sequence[str] = (), **given: Any
) -> Measurement:
    """Measure as `measure`, in a process of its own, which imports ``plugins`` first.

    Raises:
      MeasurementError: the process failed.
    """
    request = json.dumps(dict(model=model, shape=list(shape), plugins=list(plugins), **given))
    command = [sys.executable, "-m", "spectral_flax.analysis.measure", request]
    environment = {k: v for k, v in os.environ.items() if (k, v) != SPARING}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        likely = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        raise MeasurementError(f"its process was ended by {name}{likely}")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        told = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MeasurementError(told[-1]) from None
    if "error" in answer:
        raise MeasurementError(answer["error"])
    return Measurement(**answer)


def main() -> None:
    """Measure what the only argument asks for, and print the measurement, or the error, as JSON."""
    keep_freed_memory()
    try:
        request = json.loads(sys.argv[1])
        import_plugins(request.pop("plugins"))
        answer = dataclasses.asdict(measure(**request))
    except (ValueError, TypeError, MemoryError, RuntimeError) as error:
        answer = {"error": (str(error).splitlines() or [type(error).__name__])[0]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
