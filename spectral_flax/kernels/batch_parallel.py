# SPDX-License-Identifier: Apache-2.0
"""Operations that XLA splits over the batch without communication.

XLA's partitioner does not split an FFT (jax 0.10) or a grouped convolution over the batch: it
gathers the whole batch on every device. `batch_parallel` states what it cannot infer, namely
that an operation treats each example by itself, so that nothing but a sum of kernel gradients
ever crosses devices. Where a map's rows are split too, it states how an operation computes on
them: `kernels.pencils`. It needs no mesh in context and works with any mesh axes.
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
    split: Sequence[int | None] | None = None,
    split_out: int | None = None,
) -> jax.Array:
    """Return ``fun(*args)``, computed by each device on its own part of the batch.

    ``fun`` is linear in every argument and closes over no array; it must be hashable and equal
    to itself across calls (a module-level function or a frozen dataclass with ``__call__``), since
    it becomes a static part of the program. ``batch`` names the batch axis of each argument
    (None: the argument is shared by all examples) and ``out`` that of the result (None: the
    result is summed over the batch). ``split`` and ``split_out`` name one more axis of each
    argument and of the result that may be split over devices, evenly or not; ``fun`` then has a
    method ``across(names)``, which returns what a device computes from its parts, exchanges along
    these mesh axes included. Other axes are replicated if they were split.

    Differentiable any number of times, forward and backward; works under jit, vmap, checkpoint,
    shard_map and export. What JAX is configured to do at the call, as by
    ``jax.default_matmul_precision``, holds for the gradients and for every device too. ``fun`` may
    be a `ByPlatform`.
    """
    if len(args) != len(batch):
        raise ValueError(f"batch has {len(batch)} entries for {len(args)} arguments: {batch}")
    split = (None,) * len(args) if split is None else tuple(split)
    if jax.sharding.get_abstract_mesh().manual_axes:
        return fun(*args)  # inside shard_map each device already sees its own examples only
    explicit = _explicit_batch_sharding(args, batch)
    if explicit is not None:
        mesh, names = explicit
        if names is None:
            return fun(*args)
        local = functools.partial(_local, fun, [] if out is not None else [names])
        pairs = zip(args, batch, strict=True)
        specs = tuple(_spec(jnp.ndim(a), (axis, names)) for a, axis in pairs)
        result = _spec(jax.eval_shape(fun, *map(_shape_of, args)).ndim, (out, names))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=result)(*args)
    return _bind(_Multilinear(as_configured(fun), tuple(batch), out, split, split_out), *args)


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


def as_configured(fun: Callable) -> Callable:
    """Return the function under the settings of JAX of this moment, whenever it is traced."""
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


def _settings(fun):
    """Return the settings of JAX that an operation's function was called under."""
    while not isinstance(fun, _Configured):
        fun = fun.fun
    return fun.settings


@dataclasses.dataclass(frozen=True)
class _Multilinear:
    """A function linear in each argument, with the axes that may be split over devices."""

    fun: Callable[..., jax.Array]
    batch: tuple[int | None, ...]
    out: int | None
    split: tuple[int | None, ...]
    split_out: int | None


@dataclasses.dataclass(frozen=True)
class _Transposed:
    """The transpose of an operation in its argument number ``index``, given the other ones."""

    op: _Multilinear
    index: int
    shape: tuple[int, ...]
    dtype: Any
    names: Any = None  # of the mesh axes that split the operation's second axis

    def __call__(self, cotangent: jax.Array, *others: jax.Array) -> jax.Array:
        shape, axis = list(self.shape), self.op.batch[self.index]
        split = self.op.split[self.index]
        if split is not None and self.names is not None:
            shape[split] = -(-shape[split] // lax.axis_size(self.names))
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


def _spec(ndim: int, *axes: tuple[int | None, Any]) -> PartitionSpec:
    names = dict(axes)
    return PartitionSpec(*(names.get(i) for i in range(ndim)))


def _local(fun, summed, *args):
    """Compute on a device's parts, summed over the mesh axes that split what the result has not."""
    y = fun(*args)
    names = tuple(jax.tree.leaves(summed))  # one sum over all of them
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


def names_of(shapes, axes: Sequence[int | None]):
    """Return the mesh axes that split one of these axes, each of one array; None if none does."""
    for shape, axis in zip(shapes, axes, strict=True):
        spec = getattr(shape.sharding, "spec", ())
        if axis is not None and axis < len(spec) and spec[axis] is not None:
            return spec[axis]
    return None


def sharding_of(mesh, shapes, shape, *axes: tuple[int | None, Any]):
    """Return the sharding of a result, or an argument, with pairs of an axis and its mesh axes."""
    if mesh.empty:  # nothing in the program names a mesh, so nothing is split by axis names
        given = shapes[0].sharding
        return type(given).get_replicated(sorted(given.device_set, key=lambda d: d.id))
    return NamedSharding(mesh, _spec(len(shape.shape), *axes))


@functools.cache
def _partitioned(op: _Multilinear):
    """Return the operation with its partitioning rule: no other axes are split."""
    call = custom_partitioning(jax.jit(op.fun))  # which holds the constants; there may be none here

    def infer(mesh, shapes, result):
        batch, split = names_of(shapes, op.batch), names_of(shapes, op.split)
        return sharding_of(mesh, shapes, result, (op.out, batch), (op.split_out, split))

    def partition(mesh, shapes, result):
        batch, split = names_of(shapes, op.batch), names_of(shapes, op.split)
        arguments = tuple(
            sharding_of(mesh, shapes, shape, (axis, batch), (other, split))
            for shape, axis, other in zip(shapes, op.batch, op.split, strict=True)
        )
        summed = [(op.out, batch), (op.split_out, split)]
        fun = op.fun if split is None else _across(split, op.fun)
        local = functools.partial(_local, fun, [names for axis, names in summed if axis is None])
        return mesh, local, infer(mesh, shapes, result), arguments

    def rule(mesh, operands, results):
        count = itertools.count()

        def factors(value, batch, split):
            of = {batch: "b", split: "s"}  # equal names, and so are the devices that split them
            return " ".join(of.get(i, f"d{next(count)}") for i in range(len(value.shape)))

        left = ", ".join(map(factors, operands, op.batch, op.split))
        return f"{left} -> {factors(results[0], op.out, op.split_out)}"

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
    return _replaced(fun, lambda f: getattr(f, platform) if isinstance(f, ByPlatform) else f)


def _across(names, fun):
    """Return a function with what it is on parts of arrays that these mesh axes split."""
    return _replaced(fun, lambda f: f.across(names), names=names)


def _replaced(fun, change, **transposed):
    """Return a function, or an operation, whose innermost function is changed."""
    if isinstance(fun, _Transposed):
        return dataclasses.replace(fun, op=_replaced(fun.op, change, **transposed), **transposed)
    if isinstance(fun, _Multilinear | _Configured | _Vmapped):
        return dataclasses.replace(fun, fun=_replaced(fun.fun, change, **transposed))
    return change(fun)


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
    return _partitioned(_on("cpu", op))(*args)


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
        _Configured(_Transposed(op, index, aval.shape, aval.dtype), _settings(op.fun)),
        (op.out, *_without(op.batch, index)),
        op.batch[index],
        (op.split_out, *_without(op.split, index)),
        op.split[index],
    )
    result[index] = _bind(transposed, cotangent, *_without(args, index))
    return result


def _vmap(args, dims, *, op, jaxpr):
    axes = tuple(None if d is None else 0 for d in dims)
    args = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True)]
    shifts = [axis is not None for axis in axes]
    batch, split = (tuple(map(_shifted, of, shifts)) for of in (op.batch, op.split))
    out, split_out = (_shifted(axis, True) for axis in (op.out, op.split_out))
    op = _Multilinear(_Vmapped(op.fun, axes), batch, out, split, split_out)
    return _bind(op, *args), 0


def _shifted(axis: int | None, shift: bool) -> int | None:
    return None if axis is None else axis + shift


for _primitive in (batch_parallel_p, by_platform_p):
    _primitive.def_impl(_compute)
    _primitive.def_abstract_eval(_abstract)
    mlir.register_lowering(_primitive, mlir.lower_fun(_lower, multiple_results=False))
    ad.primitive_jvps[_primitive] = _jvp
    ad.primitive_transposes[_primitive] = _transpose
    batching.primitive_batchers[_primitive] = _vmap
_on_cpu = mlir.lower_fun(_lower_on_cpu, multiple_results=False)
mlir.register_lowering(by_platform_p, _on_cpu, platform="cpu")
