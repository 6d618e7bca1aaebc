# SPDX-License-Identifier: Apache-2.0
"""Operations that differ between platforms, chosen when a program is lowered.

The choice cannot be made while tracing: a program traced on a CPU host may be lowered, or exported,
for accelerators.
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

    def across(self, names: str | tuple[str, ...]) -> "ByPlatform":
        """Return what both are on parts of arrays that mesh axes split: see `batch_parallel`."""
        return ByPlatform(self.default.across(names), self.cpu.across(names))


def _held_on(*platforms: str) -> Callable[[jax.Array], jax.Array]:
    """Return the identity, which programs for these platforms hold in memory: see `held_on_cpu`.

    A primitive of its own: `lax.platform_dependent` would trace both of its branches, and their
    gradients, for each layer of a network.
    """
    held = jax.extend.core.Primitive(f"held_on_{'_'.join(platforms)}")
    held.def_impl(lambda x: x)
    held.def_abstract_eval(lambda aval: aval)
    ad.deflinear2(held, lambda cotangent, _: [held.bind(cotangent)])
    batching.defvectorized(held)
    mlir.register_lowering(held, mlir.lower_fun(lambda x: x, multiple_results=False))
    barrier = mlir.lower_fun(lax.optimization_barrier, multiple_results=False)
    for platform in platforms:
        mlir.register_lowering(held, barrier, platform=platform)
    return held.bind


_hold_on_cpu = _held_on("cpu")
_hold_on_gpu = _held_on("cuda", "rocm")


def held_on_cpu(x: jax.Array) -> jax.Array:
    """Return ``x``, which programs for the CPU hold in memory and do not compute again."""
    return _hold_on_cpu(x)


def held_on_gpu(x: jax.Array) -> jax.Array:
    """Return ``x``, which programs for GPUs hold in memory and fuse with nothing that follows."""
    return _hold_on_gpu(x)
