# SPDX-License-Identifier: Apache-2.0
"""A convolution and its two gradients, each in the fastest form of its platform.

With x the input, k the kernel and y the output's cotangent, all three are derived from the numbers
``sum(conv(x, k) * y)``: given two of the three, the third is what these are linear in. So one
primitive stands for the convolution and its gradients, and they are each other's transposes, any
number of times. Other platforms than the CPU get what JAX makes of the convolution; on the CPU
XLA's kernel gradients are its slowest part, and the forms below were measured against them
(docs/performance.md).
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.extend.core
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir

from spectral_flax.kernels import convolution_views as views
from spectral_flax.kernels import winograd
from spectral_flax.kernels.convolution_views import KERNEL, X, Y


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution with channels last: shapes of x, kernel and y, and the options.

    ``[N, *spatial, C], [*window, C, D] -> [N, *spatial', D]``.
    """

    shapes: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    precision: object = None

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolve."""
        return _bind(self, Y, x, kernel)


def convolution_form(x, kernel, strides, padding, dilation, precision) -> Convolution:
    """Describe the convolution of two arrays."""
    sizes = zip(x.shape[1:-1], kernel.shape[:-2], strides, padding, dilation, strict=True)
    spatial = ((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    y = (x.shape[0], *(max(n, 0) for n in spatial), kernel.shape[-1])
    return Convolution((x.shape, kernel.shape, y), strides, padding, dilation, precision)


def by_jax(form: Convolution, result: int, *args: jax.Array) -> jax.Array:
    """Compute one of the three from the other two as JAX does."""
    if result == Y:
        return _convolve(form, *args)
    missing = jax.ShapeDtypeStruct(form.shapes[result], args[0].dtype)
    if result == X:
        kernel, y = args
        return jax.linear_transpose(lambda x: _convolve(form, x, kernel), missing)(y)[0]
    x, y = args
    return jax.linear_transpose(lambda kernel: _convolve(form, x, kernel), missing)(y)[0]


def _convolve(form, x, kernel):
    if _is_pointwise(form):
        contracted = (((x.ndim - 1,), (0,)), ((), ()))
        return lax.dot_general(x, kernel.reshape(kernel.shape[-2:]), contracted, form.precision)
    spatial = "DHW"[-len(form.strides) :]
    return lax.conv_general_dilated(
        x,
        kernel,
        form.strides,
        form.padding,
        rhs_dilation=form.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        precision=form.precision,
    )


def _is_pointwise(form):
    ones = {*form.shapes[KERNEL][:-2], *form.strides} == {1}
    return ones and not any(map(any, form.padding))


def on_cpu(form: Convolution, result: int, *args: jax.Array) -> jax.Array:
    """Compute one of the three from the other two in the form that XLA's CPU backend does best.

    Kernel gradients are matrix products of the transposed cotangent with shifted views of the
    input, one for each position of the window. On small maps, where re-ordering the kernel is the
    larger part of XLA's convolution, it and its input gradient are one product with all views; on
    larger ones, 3x3 windows with channels enough have Winograd's form, unless ``precision`` asks
    for more than the default. Those of videos are sums of convolutions of frames.
    """
    window = math.prod(form.shapes[KERNEL][:-2])
    positions = math.prod(form.shapes[Y][:-1])
    channels = form.shapes[X][-1]
    cropped = min(itertools.chain(*form.padding)) < 0
    empty = 0 in itertools.chain(*form.shapes)
    if cropped or empty or args[0].dtype not in (jnp.float32, jnp.float64):
        return by_jax(form, result, *args)
    if result == KERNEL:
        if window == 1:
            return views.pointwise_kernel_gradient(form, *args)
        if channels < _THIN:
            return views.kernel_gradient_of_thin_input(form, *args)
        if window <= _WINDOW:
            return views.kernel_gradient(form, *args)
        return by_jax(form, result, *args)
    many = positions * window * channels > _VIEWS and form.shapes[Y][1] > 1
    if result == Y and len(form.strides) == 2 and window > 1 and many:
        return _convolution_by_bands(form, *args)
    if 1 < window <= _WINDOW and positions < _POSITIONS and channels >= _THIN:
        by_views = views.convolution_by_views if result == Y else views.input_gradient_by_views
        return by_views(form, *args)
    if _has_minimal_form(form, positions, args[0].dtype):
        return (_minimal_convolution if result == Y else _minimal_input_gradient)(form, *args)
    if result == Y and len(form.strides) == 2 and window > 1 and not any(map(any, form.padding)):
        return _unpadded_convolution(form, *args)
    # On few positions XLA has given wrong input gradients for frames inside larger programs, found
    # by the published numbers of bilinear attention; there is nothing to gain there anyway.
    if len(form.strides) == 3 and window > 1 and positions >= _POSITIONS:
        return (_convolution_by_frames if result == Y else _input_gradient_by_frames)(form, *args)
    return by_jax(form, result, *args)


_THIN = 8  # channels of an input that is thinner than a vector register
_WINDOW = 27  # positions of the largest window measured, 3x3x3
_POSITIONS = 512  # below it, n h w of a small map
_MANY_POSITIONS = 2048  # from which on products are still large with tiles of 4x4 outputs
_VIEWS = (
    1 << 32
)  # numbers in the views of all positions, for which XLA may ask the system for memory
_WIDE = 48  # channels of input and output from which on the transforms of Winograd's form pay


def _unpadded_convolution(form, x, kernel):
    # XLA has another program, many times slower, where no side is padded: one row is, and cut off.
    padding = (0, form.strides[0]), *form.padding[1:]
    options = form.strides, padding, form.dilation, form.precision
    longer = _convolve(convolution_form(x, kernel, *options), x, kernel)
    return lax.slice_in_dim(longer, 0, form.shapes[Y][1], axis=1)


def _convolution_by_bands(form, x, kernel):
    """Compute some rows of the result after the other."""
    stride, (before, _), dilation = form.strides[0], form.padding[0], form.dilation[0]
    window, (height, rows) = dilation * (kernel.shape[0] - 1) + 1, (x.shape[1], form.shapes[Y][1])
    views = math.prod(form.shapes[Y][:-1]) * math.prod(kernel.shape[:-1])
    count = min(rows, views // _VIEWS + 1)
    bands = []
    for first, last in itertools.pairwise(i * rows // count for i in range(count + 1)):
        start, stop = first * stride - before, (last - 1) * stride - before + window
        band = lax.slice_in_dim(x, min(max(start, 0), height), max(min(stop, height), 0), axis=1)
        margins = max(0, -start), max(0, stop - height)
        padding = margins, *form.padding[1:]
        part = convolution_form(band, kernel, form.strides, padding, form.dilation, form.precision)
        bands.append(on_cpu(part, Y, band, kernel))
    return jnp.concatenate(bands, axis=1)


def _has_minimal_form(form, positions, dtype):
    return (
        form.shapes[KERNEL][:-2] == (3, 3)
        and {*form.strides, *form.dilation} == {1}
        and max(itertools.chain(*form.padding)) <= 2
        and dtype == jnp.float32
        and _is_default(form.precision)
        and positions >= _POSITIONS
        and min(form.shapes[KERNEL][-2:]) >= _WIDE
    )


def _is_default(precision):
    names = None, "default", "fastest", "bfloat16", lax.Precision.DEFAULT
    return precision in (*names, *((name, name) for name in names))


def _minimal_convolution(form, x, kernel):
    return winograd.convolution_3x3(x, kernel, form.padding, outputs=_outputs(form))


def _minimal_input_gradient(form, kernel, y):
    padding = tuple((2 - before, 2 - after) for before, after in form.padding)
    options = dict(transposed=True, outputs=_outputs(form))
    return winograd.convolution_3x3(y, kernel, padding, **options)


def _outputs(form):
    return 4 if math.prod(form.shapes[Y][:-1]) >= _MANY_POSITIONS else 2


def _convolution_by_frames(form, x, kernel):
    terms = []
    for i, image_kernel in enumerate(kernel):
        part = _seen_frames(form, i, x)
        terms.append(on_cpu(_of_frames(form, part, image_kernel), Y, part, image_kernel))
    return functools.reduce(jnp.add, terms).reshape(form.shapes[Y])


def _input_gradient_by_frames(form, kernel, y):
    x = jax.ShapeDtypeStruct(form.shapes[X], y.dtype)
    y = y.reshape(-1, *y.shape[2:])
    terms = []
    for i, image_kernel in enumerate(kernel):
        view = functools.partial(_seen_frames, form, i)
        image_form = _of_frames(form, jax.eval_shape(view, x), image_kernel)
        terms += jax.linear_transpose(view, x)(on_cpu(image_form, X, image_kernel, y))
    return functools.reduce(jnp.add, terms)


def _of_frames(form, frames, image_kernel):
    options = form.strides[1:], form.padding[1:], form.dilation[1:], form.precision
    return convolution_form(frames, image_kernel, *options)


def _seen_frames(form, i, x):
    """Return the frames that the i-th frame of the window sees, as a batch of images."""
    first, frames, strides = i * form.dilation[0], form.shapes[Y][1], form.strides[0]
    x = jnp.pad(x, ((0, 0), form.padding[0], *((0, 0),) * 3))
    part = lax.slice_in_dim(x, first, first + (frames - 1) * strides + 1, strides, axis=1)
    return part.reshape(-1, *part.shape[2:])


convolution_p = jax.extend.core.Primitive("convolution_form")


@functools.lru_cache(maxsize=4096)
def _traced(form, result, dtype):
    # The primitive carries this jaxpr so that who reads a program sees the convolution in it.
    shapes = (jax.ShapeDtypeStruct(s, dtype) for i, s in enumerate(form.shapes) if i != result)
    return jax.make_jaxpr(functools.partial(by_jax, form, result))(*shapes)


def _bind(form, result, *args):
    jaxpr = _traced(form, result, jnp.result_type(args[0]))
    return convolution_p.bind(*args, form=form, result=result, jaxpr=jaxpr)


_eager = jax.jit(_bind, static_argnums=(0, 1))


@convolution_p.def_impl
def _(*args, form, result, jaxpr):
    return _eager(form, result, *args)


@convolution_p.def_abstract_eval
def _(*avals, form, result, jaxpr):
    return jax.core.ShapedArray(form.shapes[result], avals[0].dtype)


def _lowering(compute):
    rule = lambda *args, form, result, jaxpr: compute(form, result, *args)
    return mlir.lower_fun(rule, multiple_results=False)


def _lower_on_cpu(context, *args, form, result, jaxpr):
    # In a program that XLA splits over devices, it would put a sum over them into the loop of a
    # kernel gradient: many messages, for which XLA's CPU devices now and then wait for ever.
    split = (getattr(context.module_context.axis_context, "num_devices", None) or 1) > 1
    compute = by_jax if split and result == KERNEL else on_cpu
    return _lowering(compute)(context, *args, form=form, result=result, jaxpr=jaxpr)


def _jvp(primals, tangents, *, form, result, jaxpr):
    terms = []
    for i, tangent in enumerate(tangents):
        if type(tangent) is not ad.Zero:
            terms.append(_bind(form, result, *primals[:i], tangent, *primals[i + 1 :]))
    return _bind(form, result, *primals), functools.reduce(jnp.add, terms)


def _transpose(cotangent, *args, form, result, jaxpr):
    roles = [role for role in range(3) if role != result]
    (index,) = (i for i, a in enumerate(args) if ad.is_undefined_primal(a))
    if type(cotangent) is ad.Zero:
        gradient = ad.Zero(args[index].aval)
    else:
        given = {result: cotangent, roles[1 - index]: args[1 - index]}
        gradient = _bind(form, roles[index], *(given[role] for role in sorted(given)))
    return [gradient, None] if index == 0 else [None, gradient]


def _vmap(args, dims, *, form, result, jaxpr):
    return jax.vmap(functools.partial(by_jax, form, result), dims)(*args), 0


mlir.register_lowering(convolution_p, _lowering(by_jax))
mlir.register_lowering(convolution_p, _lower_on_cpu, platform="cpu")
ad.primitive_jvps[convolution_p] = _jvp
ad.primitive_transposes[convolution_p] = _transpose
batching.primitive_batchers[convolution_p] = _vmap
