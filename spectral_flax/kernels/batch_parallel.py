# SPDX-License-Identifier: Apache-2.0
"""Operations that XLA splits over the batch without communication.

XLA's partitioner does not split an FFT (jax 0.10) or a grouped convolution over the batch: it
gathers the whole batch on every device. `batch_parallel` states what it cannot infer, namely
that an operation treats each example by itself, so that nothing but a sum of kernel gradients
ever crosses devices. It needs no mesh in context and works with any mesh axes.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from spectral_flax.kernels.platforms import ByPlatform


def batch_parallel(
    fun: Callable[..., jax.Array],
    *args: jax.Array,
    batch: Sequence[int | None] = (0,),
    out: int | None = 0,
) -> jax.Array:
    """Return ``fun(*args)``, computed by each device on its own part of the batch.

    ``fun`` is linear in every argument and closes over no array; it must be hashable and equal
    to itself across calls (a module-level function or a frozen dataclass with ``__call__``), since
    it becomes a static part of the program. ``batch`` names the batch axis of each argument
    (None: the argument is shared by all examples) and ``out`` that of the result (None: the
    result is summed over the batch). Axes other than the batch are replicated if they were split.
    Differentiable any number of times, forward and backward; works under jit, vmap, checkpoint,
    shard_map and export. What JAX is configured to do at the call, as by
    ``jax.default_matmul_precision``, holds for the gradients and for every device too. ``fun`` may
    be a `ByPlatform`.
    """
    if len(args) != len(batch):
        raise ValueError(f"batch has {len(batch)} entries for {len(args)} arguments: {batch}")
    if jax.sharding.get_abstract_mesh().manual_axes:
        return fun(*args)  # inside shard_map each device already sees its own examples only
    explicit = _explicit_batch_sharding(args, batch)
    if explicit is not None:
        mesh, names = explicit
        if names is None:
            return fun(*args)
        local = functools.partial(_local, fun, None if out is not None else names)
        specs = tuple(_spec(jnp.ndim(a), axis, names) for a, axis in zip(args, batch, strict=True))
        ndim = jax.eval_shape(fun, *(_shape_of(a) for a in args)).ndim
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=_spec(ndim, out, names))(
            *args
        )
    return _bind(_Multilinear(_as_configured(fun), tuple(batch), out), *args)


# Options that change the operations of a traced function, or whether it can be traced.
_SETTINGS = (
    "allow_f16_reductions",
    "default_matmul_precision",
    "default_prng_impl",
    "enable_custom_prng",
    "enable_x64",
    "numpy_dtype_promotion",
    "numpy_rank_promotion",
    "softmax_custom_jvp",
    "threefry_partitionable",
)


def _as_configured(fun):
    names = (name for name in _SETTINGS if hasattr(jax, name))
    return _Configured(fun, tuple((name, getattr(jax.config, f"jax_{name}")) for name in names))


@dataclasses.dataclass(frozen=True)
class _Configured:
    """A function under the settings of JAX that it was called under.

    It is traced anew for its gradients and, once the program is compiled, for the part of a device:
    by then others may hold.
    """

    fun: Callable[..., jax.Array]
    settings: tuple[tuple[str, Any], ...]

    def __call__(self, *args: jax.Array) -> jax.Array:
        with contextlib.ExitStack() as stack:
            for name, value in self.settings:
                if getattr(jax.config, f"jax_{name}") != value:
                    stack.enter_context(getattr(jax, name)(value))
            return self.fun(*args)


@dataclasses.dataclass(frozen=True)
class _Multilinear:
    """A function linear in each argument, with the batch axis of arguments and result."""

    fun: Callable[..., jax.Array]
    batch: tuple[int | None, ...]
    out: int | None


@dataclasses.dataclass(frozen=True)
class _Transposed:
    """The transpose of an operation in its argument number ``index``, given the other ones."""

    op: _Multilinear
    index: int
    shape: tuple[int, ...]
    dtype: Any

    def __call__(self, cotangent: jax.Array, *others: jax.Array) -> jax.Array:
        shape, axis = list(self.shape), self.op.batch[self.index]
        if axis is not None:  # on a device the batch is smaller than it was when traced
            axes = (self.op.out, *_without(self.op.batch, self.index))
            arrays = (cotangent, *others)
            sizes = [a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None]
            shape[axis] = sizes[0]

        def of_argument(x):
            return self.op.fun(*others[: self.index], x, *others[self.index :])

        argument = jax.ShapeDtypeStruct(tuple(shape), self.dtype)
        return jax.linear_transpose(of_argument, argument)(cotangent)[0]


@dataclasses.dataclass(frozen=True)
class _Vmapped:
    """An operation mapped over the leading axis of some of its arguments."""

    fun: Callable[..., jax.Array]
    axes: tuple[int | None, ...]

    def __call__(self, *args: jax.Array) -> jax.Array:
        return jax.vmap(self.fun, self.axes)(*args)


def _without(items: tuple, index: int) -> tuple:
    return items[:index] + items[index + 1 :]


def _shape_of(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def _spec(ndim: int, axis: int | None, names) -> PartitionSpec:
    return PartitionSpec(*(names if i == axis else None for i in range(ndim)))


def _local(fun, names, *args):
    y = fun(*args)
    return lax.psum(y, names) if names else y


def _explicit_batch_sharding(args, batch):
    """Return the mesh, and the axis names that split the batch, where the types state them."""
    context = jax.sharding.get_abstract_mesh()
    result = (context, None) if context.explicit_axes else None
    for x, axis in zip(args, batch, strict=True):
        sharding = jax.typeof(x).sharding
        if axis is not None and sharding.mesh.explicit_axes:
            result = sharding.mesh, sharding.spec[axis]
            if sharding.spec[axis] is not None:
                break
    return result


@functools.cache
def _partitioned(op: _Multilinear):
    """Return the operation with its partitioning rule: the batch, and nothing else, is split."""
    call = custom_partitioning(op.fun)

    def batch_names(shapes):
        for shape, axis in zip(shapes, op.batch, strict=True):
            spec = getattr(shape.sharding, "spec", ())
            if axis is not None and axis < len(spec):
                return spec[axis]
        return None

    def sharding(mesh, shapes, shape, axis, names):
        if mesh.empty:  # nothing in the program names a mesh, so nothing is split by axis names
            given = shapes[0].sharding
            return type(given).get_replicated(sorted(given.device_set, key=lambda d: d.id))
        return NamedSharding(mesh, _spec(len(shape.shape), axis, names))

    def infer(mesh, shapes, result):
        return sharding(mesh, shapes, result, op.out, batch_names(shapes))

    def partition(mesh, shapes, result):
        names = batch_names(shapes)
        operands = zip(shapes, op.batch, strict=True)
        arguments = tuple(sharding(mesh, shapes, s, axis, names) for s, axis in operands)
        local = functools.partial(_local, op.fun, names if op.out is None else None)
        return mesh, local, sharding(mesh, shapes, result, op.out, names), arguments

    def rule(mesh, operands, results):
        count = itertools.count()

        def factors(value, axis):
            names = (f"d{next(count)}" for _ in value.shape)
            return " ".join("b" if i == axis else name for i, name in enumerate(names))

        left = ", ".join(factors(v, axis) for v, axis in zip(operands, op.batch, strict=True))
        return f"{left} -> {factors(results[0], op.out)}"

    call.def_partition(partition, infer_sharding_from_operands=infer, sharding_rule=rule)
    return jax.jit(call)  # for its cache of traces, whose key is all that may change them


def _bind(op: _Multilinear, *args):
    # The primitive carries this jaxpr so that JAX sees the partitioned call inside it.
    default = _on("default", op)
    jaxpr = _partitioned(default).trace(*map(_shape_of, args)).jaxpr
    primitive = batch_parallel_p if default == op else by_platform_p
    return primitive.bind(*args, op=op, jaxpr=jaxpr)


def _on(platform, fun):
    """Return a function, or an operation, with what it is on one platform in place of all."""
    if isinstance(fun, ByPlatform):
        return getattr(fun, platform)
    if isinstance(fun, _Transposed):
        return dataclasses.replace(fun, op=_on(platform, fun.op))
    if isinstance(fun, _Multilinear | _Configured | _Vmapped):
        return dataclasses.replace(fun, fun=_on(platform, fun.fun))
    return fun


batch_parallel_p = jax.extend.core.Primitive("batch_parallel")
by_platform_p = jax.extend.core.Primitive("batch_parallel_by_platform")
_eager = jax.jit(_bind, static_argnums=0)


def _compute(*args, op, jaxpr):
    return _eager(op, *args)


def _abstract(*avals, op, jaxpr):
    (result,) = jaxpr.out_avals
    return result


def _lower(*args, op, jaxpr):
    return jax.extend.core.jaxpr_as_fun(jaxpr)(*args)[0]


def _lower_on_cpu(*args, op, jaxpr):
    return _on("cpu", op.fun)(*args)


def _jvp(primals, tangents, *, op, jaxpr):
    terms = [
        _bind(op, *primals[:i], tangent, *primals[i + 1 :])
        for i, tangent in enumerate(tangents)
        if type(tangent) is not ad.Zero
    ]
    return _bind(op, *primals), functools.reduce(jnp.add, terms)


def _transpose(cotangent, *args, op, jaxpr):
    (index,) = (i for i, x in enumerate(args) if ad.is_undefined_primal(x))
    result: list = [None] * len(args)
    aval = args[index].aval
    if type(cotangent) is ad.Zero:
        result[index] = ad.Zero(aval)
        return result
    transposed = _Multilinear(
        _Transposed(op, index, aval.shape, aval.dtype),
        (op.out, *_without(op.batch, index)),
        op.batch[index],
    )
    result[index] = _bind(transposed, cotangent, *_without(args, index))
    return result


def _vmap(args, dims, *, op, jaxpr):
    axes = tuple(None if d is None else 0 for d in dims)
    args = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True)]
    shifted = zip(op.batch, axes, strict=True)
    batch = tuple(None if b is None else b + (axis is not None) for b, axis in shifted)
    out = None if op.out is None else op.out + 1
    return _bind(_Multilinear(_Vmapped(op.fun, axes), batch, out), *args), 0


for _primitive in (batch_parallel_p, by_platform_p):
    _primitive.def_impl(_compute)
    _primitive.def_abstract_eval(_abstract)
    mlir.register_lowering(_primitive, mlir.lower_fun(_lower, multiple_results=False))
    ad.primitive_jvps[_primitive] = _jvp
    ad.primitive_transposes[_primitive] = _transpose
    batching.primitive_batchers[_primitive] = _vmap
# XLA splits these operations without help.
_on_cpu = mlir.lower_fun(_lower_on_cpu, multiple_results=False)
mlir.register_lowering(by_platform_p, _on_cpu, platform="cpu")
