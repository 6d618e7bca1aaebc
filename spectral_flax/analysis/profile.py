# SPDX-License-Identifier: Apache-2.0
"""Cost of a network by layer, without running it or allocating its weights.

The program is traced with shapes in place of arrays, and the operations of the trace are counted:
convolutions, matrix products and Fourier transforms, also within loops and transformed functions.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core
from jax.typing import DTypeLike

from spectral_flax.analysis.calls import hooked
from spectral_flax.functional.fourier import RealFFT
from spectral_flax.memory import inner_jaxprs

_MARK = "@"  # begins a name scope that is the path of a module


@dataclasses.dataclass(frozen=True)
class Cost:
    """Counts for one example (or a batch); costs add.

    Multiply-adds are kept apart by kind: ``weights`` are products with weights (convolutions,
    linear layers, fixed orthogonal transforms), ``attention`` products of activations with each
    other, ``transforms`` Fourier transforms, at N log2 N for N real numbers each way.
    ``activations`` are the bytes of the results of all these, which training keeps (what
    `jax.checkpoint` recomputes is not kept).
    """

    parameters: int = 0
    weights: int = 0
    attention: int = 0
    transforms: int = 0
    activations: int = 0

    @property
    def multiply_adds(self) -> int:
        return self.weights + self.attention + self.transforms

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(a + b for a, b in pairs))

    def __sub__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(a - b for a, b in pairs))


@dataclasses.dataclass(frozen=True)
class Profile:
    """Costs by the dotted path of the module that incurs them, in the order of computation."""

    layers: dict[str, Cost]

    @property
    def total(self) -> Cost:
        return sum(self.layers.values(), Cost())

    def grouped(self, depth: int) -> dict[str, Cost]:
        """Return the costs summed over modules whose paths agree in the first ``depth`` parts."""
        groups: dict[str, Cost] = {}
        for path, cost in self.layers.items():
            group = ".".join(path.split(".")[:depth]) if path else path
            groups[group] = groups.get(group, Cost()) + cost
        return groups


def profile(
    model: nnx.Module,
    shape: Sequence[int],
    *,
    dtype: DTypeLike = jnp.float32,
    call: Callable[[nnx.Module, jax.Array], Any] | None = None,
) -> Profile:
    """Return the cost of ``model`` on an input of ``shape``, batch axis included.

    ``model`` may be abstract (`abstract_model`); it is taken in evaluation mode and left alone.
    ``call`` replaces ``model(x)``. Work that depends on the weights alone is done once for any
    batch and not counted; nor is anything done element by element. Fourier transforms whose
    implementation is "auto" are counted as FFTs on every platform.
    """
    graphdef, state = nnx.split(model)
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    first = len(jax.tree.leaves(abstract))

    def run(state, x):
        merged = nnx.merge(graphdef, state)
        mode = dict(use_running_average=True, deterministic=True)
        # Kernels of FFCs apart: padded to one, they multiply by zeros, which are not counted.
        merged = nnx.view(merged, fuse_outputs=False, raise_if_not_found=False, **mode)
        # FFTs where a layer leaves the choice open: they need the fewest operations.
        fft = dict(only=_is_automatic, implementation="fft")
        merged = nnx.view(merged, raise_if_not_found=False, **fft)
        with hooked(merged, _in_scope):
            return merged(x) if call is None else call(merged, x)

    jaxpr = jax.make_jaxpr(run)(abstract, jax.ShapeDtypeStruct(tuple(shape), dtype)).jaxpr
    counter = _Counter()
    counter.count(jaxpr, [i >= first for i in range(len(jaxpr.invars))], "", 1, True)
    for path, cost in _parameters(model).items():
        counter.add(path, cost)
    return Profile({path: cost for path, cost in counter.layers.items() if cost != Cost()})


def _is_automatic(path: tuple, module: Any) -> bool:
    """Return whether a module holds a transform whose implementation is "auto"."""
    found = (value for value in vars(module).values() if isinstance(value, RealFFT))
    return any(pair.implementation == "auto" for pair in found)


def _parameters(model: nnx.Module) -> dict[str, Cost]:
    layers: dict[str, Cost] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        owner = ".".join(map(str, path[:-1]))
        count = Cost(parameters=math.prod(variable.shape))
        layers[owner] = layers.get(owner, Cost()) + count
    return layers


def _in_scope(path, module, call, *args, **kwargs):
    """Call a module in a name scope that is its path; Flax NNX opens none itself."""
    with jax.named_scope(_MARK + path):
        return call(*args, **kwargs)


class _Counter:
    """Adds the cost of every operation of a jaxpr to the module that it belongs to."""

    def __init__(self):
        self.layers: dict[str, Cost] = {}

    def count(self, jaxpr, depends: list[bool], path: str, times: int, keep: bool) -> list[bool]:
        """Count a jaxpr done ``times`` over; return which results depend on the input.

        ``depends`` tells which arguments depend on it; ``keep`` whether training keeps the results.
        """
        known = dict(zip(jaxpr.invars, depends, strict=True))

        def is_dependent(atom) -> bool:
            return not isinstance(atom, core.Literal) and known.get(atom, False)

        for eqn in jaxpr.eqns:
            flags = [is_dependent(v) for v in eqn.invars]
            where = _path_of(eqn, path)
            self.layers.setdefault(where, Cost())
            results = [any(flags)] * len(eqn.outvars)
            if any(flags):
                inner = list(inner_jaxprs(eqn))
                if inner:
                    results = self._nested(eqn, inner, flags, where, times, keep)
                else:
                    self._operation(eqn, flags, where, times, keep)
            known |= zip(eqn.outvars, results, strict=True)
        return [is_dependent(v) for v in jaxpr.outvars]

    def _nested(self, eqn, inner, flags, path, times, keep) -> list[bool]:
        name = eqn.primitive.name
        if keep and ("remat" in name or "checkpoint" in name or "custom_vjp" in name):
            # Recomputed, or kept in another form, by the backward pass: only the result is kept.
            keep = False
            self._keep(eqn, path, times)
        if name == "scan":
            body, times = inner[0], times * eqn.params["length"]
            return self._loop(body, flags, *_loop_parts(eqn, body), path, times, keep)
        if name == "while":  # how often is not known before it runs: counted once
            outer, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
            body, flags = eqn.params["body_jaxpr"].jaxpr, flags[outer:]
            return self._loop(body, flags, consts, len(flags) - consts, path, times, keep)
        if name == "cond":
            branches = [self._trial(j, flags[1:], path, times, keep) for j in inner]
            costs, results = zip(*branches, strict=True)
            dearest = max(costs, key=lambda c: sum(v.multiply_adds for v in c.values()))
            for where, cost in dearest.items():
                self.add(where, cost)
            return [any(column) for column in zip(*results, strict=True)]
        results = [any(flags)] * len(eqn.outvars)
        for jaxpr in inner:
            aligned = flags if len(flags) == len(jaxpr.invars) else [True] * len(jaxpr.invars)
            outs = self.count(jaxpr, aligned, path, times, keep)
            if len(inner) == 1 and len(outs) == len(results):
                results = outs
        return results

    def _loop(self, jaxpr, flags, consts, carry, path, times, keep) -> list[bool]:
        """Count the body of a loop, whose arguments are constants, a carry and mapped arrays."""
        while True:  # what enters the carry in one round reaches the next
            outs = _Counter().count(jaxpr, flags, path, 1, False)
            merged = [a or b for a, b in zip(flags[consts : consts + carry], outs, strict=False)]
            if merged == flags[consts : consts + carry]:
                return self.count(jaxpr, flags, path, times, keep)
            flags = [*flags[:consts], *merged, *flags[consts + carry :]]

    def _trial(self, jaxpr, flags, path, times, keep):
        counter = _Counter()
        return counter.layers, counter.count(jaxpr, flags, path, times, keep)

    def _operation(self, eqn, flags, path, times, keep) -> None:
        name = eqn.primitive.name
        if name == "conv_general_dilated":
            cost = Cost(weights=times * _convolution(eqn))
        elif name == "dot_general":
            products = times * _product(eqn)
            both = all(flags)
            cost = Cost(attention=products) if both else Cost(weights=products)
        elif name == "fft":
            cost = Cost(transforms=times * _transform(eqn))
        else:
            return
        self.add(path, cost)
        if keep:
            self._keep(eqn, path, times)

    def _keep(self, eqn, path: str, times: int) -> None:
        sizes = (math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in eqn.outvars)
        self.add(path, Cost(activations=times * sum(sizes)))

    def add(self, path: str, cost: Cost) -> None:
        self.layers[path] = self.layers.get(path, Cost()) + cost


def _path_of(eqn, outer: str) -> str:
    """Return the innermost module whose call the operation belongs to."""
    for part in reversed(str(eqn.source_info.name_stack).split("/")):
        if part.startswith(_MARK):
            inner = part[1:]
            # An inner function that was traced before, for another module, bears its name.
            return inner if inner.startswith(outer) else outer
    return outer


def _loop_parts(eqn, body) -> tuple[int, int]:
    """Return how many constants and carried values a scan has.

    What it maps over or stacks has an axis more outside than in the body; JAX 0.10 and 0.12 have
    no parameter for this in common.
    """
    outside, inside = (*eqn.invars, *eqn.outvars), (*body.invars, *body.outvars)
    same = [a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True)]
    carry = sum(same[len(eqn.invars) :])
    return sum(same[: len(eqn.invars)]) - carry, carry


def _convolution(eqn) -> int:
    """Return the products of a convolution; padding counts, zeros between inputs do not."""
    numbers, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
    per_output = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    spread = math.prod(eqn.params["lhs_dilation"])
    return math.prod(eqn.outvars[0].aval.shape) * per_output // spread


def _product(eqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    size = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    return math.prod(eqn.outvars[0].aval.shape) * size


def _transform(eqn) -> int:
    lengths = eqn.params["fft_lengths"]
    points = math.prod(lengths)
    kind = eqn.params["fft_type"].name
    shape = eqn.invars[0].aval.shape
    count = math.prod(shape[: len(shape) - len(lengths)])
    numbers = 1 if "RFFT" in kind else 2  # a complex transform is two real ones
    return round(numbers * count * points * math.log2(points))
