# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, and a convolution with normalisation and activation."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import as_floating, wide
from spectral_flax.kernels.platforms import held_on_cpu
from spectral_flax.layers.activations import relu
from spectral_flax.layers.checks import as_channels_last
from spectral_flax.layers.conv import Size, conv, per_channel
from spectral_flax.layers.initializers import Initializer, ones, zeros


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last: ``[..., C] -> [..., C]``.

    As in PyTorch, the running variance is the unbiased one; ``new = momentum * old + (1 -
    momentum) * batch``. Statistics are computed and kept in float32 or wider whatever the input;
    the result has ``dtype``, or the input's when that is None.

    Under ``jit`` with a batch split over devices the statistics are those of the whole batch.
    Inside ``shard_map`` they are those of the device, or of all devices along ``axis_name``, which
    ``nnx.view(model, axis_name="data")`` sets for a whole model. Arguments as of ``nnx.BatchNorm``,
    but for the default of ``momentum``; ``rngs`` may be left out unless an initialiser draws.

    Ioffe and Szegedy, ICML 2015.
    """

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        bias_init: Initializer = zeros,
        scale_init: Initializer = ones,
        axis_name: str | None = None,
        use_running_average: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ):
        keys = (None, None) if rngs is None else (rngs.params(), rngs.params())
        self.scale = nnx.Param(scale_init(keys[0], (num_features,), param_dtype))
        self.bias = nnx.Param(bias_init(keys[1], (num_features,), param_dtype))
        stat_dtype = wide(param_dtype)
        self.mean = nnx.BatchStat(zeros(None, (num_features,), stat_dtype))
        self.var = nnx.BatchStat(ones(None, (num_features,), stat_dtype))
        self.num_features = num_features
        self.momentum = momentum
        self.epsilon = epsilon
        self.axis_name = axis_name
        self.use_running_average = use_running_average
        self.dtype = dtype

    def set_view(
        self, use_running_average: bool | None = None, axis_name: str | None = None
    ) -> None:
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if axis_name is not None:
            self.axis_name = axis_name

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_channels_last(x, self.num_features)
        dtype = jnp.dtype(self.dtype or x.dtype)
        mean, var = self.mean[...], self.var[...]
        affine = self.scale[...], self.bias[...]
        if self.use_running_average:
            return _normalised(x, mean, var, *affine, self.epsilon, dtype)
        options = self.momentum, self.epsilon, self.axis_name, dtype
        y, mean, var = _normalised_by_batch(x, mean, var, *affine, *options)
        # Not item assignment, which costs Flax a search of the whole trace for each layer.
        self.mean.set_value(mean)
        self.var.set_value(var)
        return y


# Traced once for all layers of one shape: a network of Fourier units has hundreds of them.
@functools.partial(jax.jit, static_argnums=(5, 6))
def _normalised(x, mean, var, scale, bias, epsilon, dtype):
    x = x.astype(wide(x.dtype))
    centred = x - per_channel(mean.astype(x.dtype), x)
    return _scaled(centred, var.astype(x.dtype), scale, bias, epsilon).astype(dtype)


@functools.partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _normalised_by_batch(x, mean, var, scale, bias, momentum, epsilon, axis_name, dtype):
    """Return the result, and the running mean and variance with those of the batch."""
    x = x.astype(wide(x.dtype))
    count = math.prod(x.shape[:-1])
    if count == 0:  # an empty batch has no mean
        y = _scaled(x, var.astype(x.dtype), scale, bias, epsilon)
        return y.astype(dtype), mean, var
    # Held, and so is its cotangent: both gradients of a convolution read that.
    x = held_on_cpu(x)
    y, batch_mean, batch_var = _standardised(x, scale, bias, epsilon, axis_name)
    count *= lax.axis_size(axis_name) if axis_name else 1
    unbiased = batch_var * (count / max(count - 1, 1))
    moved = _moved(mean, batch_mean, momentum), _moved(var, unbiased, momentum)
    return y.astype(dtype), *moved


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _standardised(x, scale, bias, epsilon, axis_name):
    """Return the result, and mean and variance of the batch."""
    y, mean, var, _ = _with_centred(x, scale, bias, epsilon, axis_name)
    return y, mean, var


def _with_centred(x, scale, bias, epsilon, axis_name):
    mean = _mean(x, axis_name)
    # On the CPU sums over positions are calls that need this in memory, where the rest of the
    # program would still compute it from x again, and so both would be kept.
    centred = held_on_cpu(x - per_channel(mean, x))
    var = _mean(jnp.square(centred), axis_name)
    return _scaled(centred, var, scale, bias, epsilon), mean, var, centred


@_standardised.defjvp
def _standardised_jvp(epsilon, axis_name, primals, tangents):
    """Differentiate, as a sum of two maps with one factor a channel.

    So its transpose takes two sums over positions and one more pass over the maps. What follows
    from the chain rule step by step takes three, and writes a map in between.
    """
    x, scale, _ = primals
    x_dot, *affine_dot = tangents
    y, mean, var, centred = _with_centred(*primals, epsilon, axis_name)
    scale_dot, bias_dot = (a.astype(x.dtype) for a in affine_dot)
    inverse = lax.rsqrt(var + epsilon)
    factor = inverse * scale.astype(x.dtype)
    mean_dot, moment = _mean(x_dot, axis_name), _mean(centred * x_dot, axis_name)
    along = inverse * (scale_dot - factor * inverse * moment)
    terms = x_dot * per_channel(factor, x), centred * per_channel(along, x)
    y_dot = sum(terms) + per_channel(bias_dot - factor * mean_dot, x)
    return (y, mean, var), (y_dot, mean_dot, 2 * moment)


def _mean(x, axis_name):
    mean = x.mean(tuple(range(x.ndim - 1)))
    return lax.pmean(mean, axis_name) if axis_name else mean


def _scaled(centred, var, scale, bias, epsilon):
    inverse = lax.rsqrt(var + epsilon) * scale.astype(centred.dtype)
    bias = bias.astype(centred.dtype)
    return centred * per_channel(inverse, centred) + per_channel(bias, centred)


def _moved(running, batch, momentum):
    batch = lax.stop_gradient(batch).astype(running.dtype)
    return momentum * running + (1 - momentum) * batch


class ConvNormAct(nnx.Module):
    """Convolution, batch normalisation, activation: ``[N, *spatial, I] -> [N, *spatial', O]``.

    ``layer`` builds the convolution and takes the ``options``; ``activation=None`` leaves the
    activation out. Other arguments as in `conv`.
    """

    folds = (("conv", "norm"),)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 1,
        strides: Size = 1,
        *,
        layer: Callable[..., nnx.Module] = conv,
        activation: Callable[[jax.Array], jax.Array] | None = relu,
        epsilon: float = 1e-5,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        common = dict(strides=strides, dtype=dtype, rngs=rngs)
        self.conv = layer(in_features, out_features, kernel_size, **common, **options)
        param_dtype = options.get("param_dtype", jnp.float32)
        norm = dict(epsilon=epsilon, dtype=dtype, param_dtype=param_dtype)
        self.norm = BatchNorm(out_features, **norm)
        self.activation = relu if activation is nnx.relu else activation

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(self.conv(as_floating(x=x)))
        return y if self.activation is None else self.activation(y)


class NormActConv(nnx.Module):
    """Batch normalisation, ReLU, convolution: ``[N, *spatial, I] -> [N, *spatial', O]``.

    Arguments as in `conv`. He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size = 1,
        strides: Size = 1,
        *,
        epsilon: float = 1e-5,
        dtype: DTypeLike | None = None,
        **options: Any,
    ):
        param_dtype = options.get("param_dtype", jnp.float32)
        norm = dict(epsilon=epsilon, dtype=dtype, param_dtype=param_dtype)
        self.norm = BatchNorm(in_features, **norm)
        self.conv = conv(in_features, out_features, kernel_size, strides, dtype=dtype, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(relu(self.norm(x)))
