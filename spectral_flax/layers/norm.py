# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, and a convolution with normalisation and activation."""

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
        dtype = self.dtype or x.dtype
        x = x.astype(wide(x.dtype))
        if self.use_running_average:
            centred = x - per_channel(self.mean[...].astype(x.dtype), x)
            var = self.var[...].astype(x.dtype)
        else:
            centred, var = self._centred(x)
        scale, bias = self.scale[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        inverse = lax.rsqrt(var + self.epsilon) * scale
        y = centred * per_channel(inverse, x) + per_channel(bias, x)
        return y.astype(dtype)

    def _centred(self, x):
        """Return x less the batch's mean, the (biased) variance, and update the running ones."""
        axes = tuple(range(x.ndim - 1))
        count = math.prod(x.shape[:-1])
        if count == 0:  # an empty batch has no mean
            return x, self.var[...].astype(x.dtype)
        mean = x.mean(axes)
        if self.axis_name is not None:
            mean = lax.pmean(mean, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        centred = x - per_channel(mean, x)
        # On the CPU sums over positions are calls that need this in memory, where the rest of the
        # program would still compute it from x again, and so both would be kept.
        centred = held_on_cpu(centred)
        var = jnp.square(centred).mean(axes)
        if self.axis_name is not None:
            var = lax.pmean(var, self.axis_name)
        for running, batch in (self.mean, mean), (self.var, var * (count / max(count - 1, 1))):
            batch = lax.stop_gradient(batch).astype(running[...].dtype)
            # Not item assignment, which costs Flax a search of the whole trace for each layer.
            running.set_value(self.momentum * running[...] + (1 - self.momentum) * batch)
        return centred, var


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
