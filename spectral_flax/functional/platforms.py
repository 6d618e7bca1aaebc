# SPDX-License-Identifier: Apache-2.0
"""What differs between platforms, decided when a program is lowered for one and not when traced.

The platform that a process computes on says nothing of where its programs go: one traced on a CPU
host may be lowered, or exported, for accelerators.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.extend.core
from jax import lax
from jax.interpreters import ad, batching, mlir


@dataclasses.dataclass(frozen=True)
class ByPlatform:
    """A function that is another one on the CPU. `batch_parallel` lowers one of them."""

    default: Callable[..., jax.Array]
    cpu: Callable[..., jax.Array]

    def __call__(self, *args: jax.Array) -> jax.Array:
        return lax.platform_dependent(*args, default=self.default, cpu=self.cpu)


def held_on_cpu(x: jax.Array) -> jax.Array:
    """Return ``x``, which programs for the CPU hold in memory and do not compute again.

    A primitive of its own: `lax.platform_dependent` would trace both of its branches, and their
    gradients, for each layer of a network.
    """
    return held_on_cpu_p.bind(x)


held_on_cpu_p = jax.extend.core.Primitive("held_on_cpu")
held_on_cpu_p.def_impl(lambda x: x)
held_on_cpu_p.def_abstract_eval(lambda aval: aval)
ad.deflinear2(held_on_cpu_p, lambda cotangent, _: [held_on_cpu_p.bind(cotangent)])
batching.defvectorized(held_on_cpu_p)
mlir.register_lowering(held_on_cpu_p, mlir.lower_fun(lambda x: x, multiple_results=False))
mlir.register_lowering(
    held_on_cpu_p,
    mlir.lower_fun(lax.optimization_barrier, multiple_results=False),
    platform="cpu",
)
