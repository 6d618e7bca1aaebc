# SPDX-License-Identifier: Apache-2.0
"""A convolution and its gradients as matrix products with shifted views of the map.

``form`` is a `convolution_forms.Convolution`; each function computes one of input, kernel and
cotangent of the output from the other two.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

X, KERNEL, Y = range(3)  # their places in the shapes of a form
_LAST_BY_FIRST = (((1,), (0,)), ((), ()))


def pointwise_kernel_gradient(form, x, y):
    """Return the gradient of a kernel of one position."""
    if form.strides != (1,) * len(form.strides) or any(map(any, form.padding)):
        x = _view(form, _padded(form, x), (0,) * len(form.strides))
    x, y = lax.optimization_barrier((x, y))
    if x.shape[-1] <= y.shape[-1]:  # the smaller one is transposed
        k = lax.dot_general(_transposed(x), _matrix(y), _LAST_BY_FIRST, form.precision)
    else:
        k = lax.dot_general(_transposed(y), _matrix(x), _LAST_BY_FIRST, form.precision)
        k = lax.optimization_barrier(k).T
    return k.reshape(form.shapes[KERNEL])


def kernel_gradient(form, x, y):
    """Return the gradient of a kernel, one position of the window after the other."""
    padded, y = _padded(form, x), _transposed(y)

    def product(offset):
        starts = (0, *offset, 0)
        view = lax.dynamic_slice(padded, starts, _extent(form, padded))
        view = view[(slice(None), *(slice(None, None, s) for s in form.strides))]
        return lax.dot_general(y, _matrix(view), _LAST_BY_FIRST, form.precision)

    # A loop, because XLA would make all views at once, in the memory of a whole window.
    products = lax.map(product, jnp.asarray(list(_offsets(form))))
    return products.swapaxes(1, 2).reshape(form.shapes[KERNEL])


def _extent(form, padded):
    sizes = zip(form.shapes[Y][1:-1], form.strides, strict=True)
    return padded.shape[0], *((n - 1) * s + 1 for n, s in sizes), padded.shape[-1]


def kernel_gradient_of_thin_input(form, x, y):
    """Return the gradient of a kernel of few channels, one row of the window after the other."""
    x = lax.optimization_barrier(jnp.moveaxis(_padded(form, x), -1, 0))
    rows, *rest = (
        range(0, k * d, d) for k, d in zip(form.shapes[KERNEL][:-2], form.dilation, strict=True)
    )
    extent = (form.shapes[Y][1] - 1) * form.strides[0] + 1

    def product(row):
        band = lax.dynamic_slice_in_dim(x, row, extent, axis=2)
        views = jnp.stack([_view(form, band, (0, *o), axis=2) for o in itertools.product(*rest)])
        views = views.reshape(-1, math.prod(y.shape[:-1]))
        return lax.dot_general(views, _matrix(y), _LAST_BY_FIRST, form.precision)

    return lax.map(product, jnp.asarray(rows)).reshape(form.shapes[KERNEL])


def convolution_by_views(form, x, kernel):
    """Return the convolution as one product, in the memory of a whole window."""
    padded = _padded(form, x)
    views = jnp.concatenate([_view(form, padded, offset) for offset in _offsets(form)], -1)
    y = lax.dot_general(_matrix(views), _matrix(kernel), _LAST_BY_FIRST, form.precision)
    return y.reshape(form.shapes[Y])


def input_gradient_by_views(form, kernel, y):
    """Return the gradient of the input: `convolution_by_views`, transposed."""
    parts = lax.dot_general(
        _matrix(y), _matrix(kernel), (((1,), (1,)), ((), ())), form.precision
    ).reshape(*y.shape[:-1], -1, kernel.shape[-2])
    x = jax.ShapeDtypeStruct(form.shapes[X], y.dtype)
    padded = jax.eval_shape(functools.partial(_padded, form), x)
    total = jnp.zeros(padded.shape, padded.dtype)
    for i, offset in enumerate(_offsets(form)):
        place = jax.linear_transpose(lambda a, o=offset: _view(form, a, o), padded)
        total = total + place(parts[..., i, :])[0]
    return jax.linear_transpose(functools.partial(_padded, form), x)(total)[0]


def _matrix(a):
    return a.reshape(-1, a.shape[-1])


def _transposed(a):
    """Transpose ``[..., C]`` to ``[C, positions]``, not fused with what computes ``a``.

    XLA would read in the order of the result, through all that it fuses.
    """
    return lax.optimization_barrier(_matrix(lax.optimization_barrier(a)).T)


def _padded(form, x):
    return jnp.pad(x, ((0, 0), *form.padding, (0, 0)))


def _offsets(form):
    window = form.shapes[KERNEL][:-2]
    return itertools.product(
        *(range(0, k * d, d) for k, d in zip(window, form.dilation, strict=True))
    )


def _view(form, padded, offset, axis=1):
    """Return what one position of the window sees, from the spatial axes that start at ``axis``."""
    starts, limits, steps = [0] * padded.ndim, list(padded.shape), [1] * padded.ndim
    sizes = zip(offset, form.shapes[Y][1:-1], form.strides, strict=True)
    for i, (start, size, step) in enumerate(sizes, start=axis):
        starts[i], limits[i], steps[i] = start, start + (size - 1) * step + 1, step
    return lax.slice(padded, starts, limits, steps)
