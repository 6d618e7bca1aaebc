# SPDX-License-Identifier: Apache-2.0
"""Convolution, normalisation and their combinations, with PyTorch's padding and statistics."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from spectral_flax.arrays import as_floating, wide, with_range
from spectral_flax.kernels.convolution import convolution
from spectral_flax.kernels.platforms import held_on_cpu
from spectral_flax.layers.activations import relu
from spectral_flax.layers.checks import as_channels_last

Size = int | Sequence[int]
Initializer = Callable[..., jax.Array]


def normal(std: float) -> Initializer:
    """Return an initialiser that draws from a normal distribution of mean 0."""

    def init(key, shape, dtype=jnp.float32, *_, **__):
        return _draw(key, tuple(shape), dtype, std)

    return init


def kaiming_normal(key, shape, dtype=jnp.float32, *_, **__) -> jax.Array:
    """Draw a kernel ``[*window, I, O]`` with variance 2 / (window · O), PyTorch's fan-out mode.

    He et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    return normal(math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))(key, shape, dtype)


def zeros(key, shape, dtype=jnp.float32, *_, **__) -> jax.Array:
    """Return zeros."""
    return jax.device_put(np.zeros(shape, dtype))


def ones(key, shape, dtype=jnp.float32, *_, **__) -> jax.Array:
    """Return ones."""
    return jax.device_put(np.ones(shape, dtype))


def _draw(key, shape, dtype, std):
    """Draw block by block, so that arrays of all shapes share two compiled samplers.

    JAX compiles a sampler for each shape: the longest part of building a model.
    """
    count = math.prod(shape)
    block = 1 << (14 if count <= 1 << 16 else 18)
    indices = range(-(-count // block))
    if isinstance(key, jax.core.Tracer):
        return _traced_draw(key, shape, dtype, std, block, len(indices))
    blocks = [jax.random.normal(jax.random.fold_in(key, i), (block,), dtype) for i in indices]
    draw = np.concatenate([np.asarray(b) for b in blocks])[:count].reshape(shape)
    return jax.device_put(draw * np.asarray(std, dtype))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _traced_draw(key, shape, dtype, std, block, blocks):
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(blocks))
    draw = jax.vmap(lambda key: jax.random.normal(key, (block,), dtype))(keys)
    return draw.reshape(-1)[: math.prod(shape)].reshape(shape) * jnp.asarray(std, dtype)


def as_tuple(value: Size, rank: int, name: str) -> tuple[int, ...]:
    """Return ``value`` as ``rank`` positive integers, repeating a single one."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(values) != rank or not all(isinstance(v, int) and v >= 0 for v in values):
        raise ValueError(f"{name}={value!r}; expected a natural number or {rank} of them")
    return values


def conv(
    in_features: int,
    out_features: int,
    kernel_size: Size = 1,
    *,
    rank: int = 2,
    strides: Size = 1,
    padding: Size | None = None,
    dilation: Size = 1,
    groups: int = 1,
    use_bias: bool = False,
    kernel_init: Initializer = kaiming_normal,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Build a convolution ``[N, *spatial, in_features] -> [N, *spatial', out_features]``.

    ``padding`` is that on both sides of each axis; None keeps the size at stride 1, with PyTorch's
    placement at larger strides: ``dilation * (kernel_size - 1) // 2``.

    Raises:
      ValueError: ``groups`` does not divide the channels, or a size is not a natural number.
    """
    for name, features in (("in_features", in_features), ("out_features", out_features)):
        if features < 1 or groups < 1 or features % groups:
            raise ValueError(f"{name}={features} is not a positive multiple of groups={groups}")
    window = as_tuple(kernel_size, rank, "kernel_size")
    dilations = as_tuple(dilation, rank, "dilation")
    if padding is None:
        padding = [d * (k - 1) // 2 for k, d in zip(window, dilations, strict=True)]
    return nnx.Conv(
        in_features,
        out_features,
        window,
        strides=as_tuple(strides, rank, "strides"),
        padding=tuple((p, p) for p in as_tuple(padding, rank, "padding")),
        kernel_dilation=dilations,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=zeros,
        conv_general_dilated=convolution,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
    )


def summing_dtype(dtype: DTypeLike | None, param_dtype: DTypeLike) -> DTypeLike | None:
    """Return the dtype of a layer that is given sums over a map: float16 does not hold them."""
    given = param_dtype if dtype is None else dtype
    return dtype if with_range(given) == given else with_range(given)


def joined(convs: Sequence[nnx.Conv], x: jax.Array) -> jax.Array:
    """Return the outputs of convolutions, one after the other on channels, as one convolution.

    They share all but their channels. Each sees as many of the first channels of x as it has
    inputs; for the others its kernel gets zeros.
    """
    first = convs[0]

    def widened(kernel):
        missing = x.shape[-1] - kernel.shape[-2]
        return jnp.pad(kernel, ((0, 0),) * (kernel.ndim - 2) + ((0, missing), (0, 0)))

    kernel = jnp.concatenate([widened(conv.kernel[...]) for conv in convs], -1)
    biases = [
        jnp.zeros(conv.out_features, kernel.dtype) if conv.bias is None else conv.bias[...]
        for conv in convs
    ]
    biased = any(conv.bias is not None for conv in convs)
    bias = jnp.concatenate(biases) if biased else None
    x, kernel, bias = first.promote_dtype((x, kernel, bias), dtype=first.dtype)
    y = convolution(
        x,
        kernel,
        first.strides,
        first.padding,
        rhs_dilation=first.kernel_dilation,
        precision=first.precision,
    )
    return y if bias is None else y + _of_channels(bias, y)


def linear(
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    precision: lax.PrecisionLike = None,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Build a linear layer: ``[..., in_features] -> [..., out_features]``.

    The kernel is drawn with variance 1 / (3 * in_features) unless ``kernel_init`` says otherwise.
    """
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        kernel_init=kernel_init or normal(math.sqrt(1 / (3 * in_features))),
        bias_init=zeros,
        dtype=dtype,
        param_dtype=param_dtype,
        precision=precision,
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last: ``[..., C] -> [..., C]``.

    As in PyTorch, the running variance is the unbiased one; ``new = momentum * old + (1 -
    momentum) * batch``. Statistics are computed and kept in float32 or wider whatever the input;
    the result has ``dtype``, or the input's when that is None.

    Under ``jit`` with a batch split over devices the statistics are those of the whole batch.
    Inside ``shard_map`` they are those of the device, or of all devices along ``axis_name``, which
    ``nnx.view(model, axis_name="data")`` sets for a whole model.

    Ioffe and Szegedy, ICML 2015.
    """

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        scale_init: Initializer = ones,
        axis_name: str | None = None,
        use_running_average: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.scale = nnx.Param(scale_init(None, (num_features,), param_dtype))
        self.bias = nnx.Param(zeros(None, (num_features,), param_dtype))
        stat_dtype = wide(param_dtype)
        self.mean = nnx.BatchStat(zeros(None, (num_features,), stat_dtype))
        self.var = nnx.BatchStat(ones(None, (num_features,), stat_dtype))
        self.num_features = num_features
        self.momentum = momentum
        self.epsilon = epsilon
        self.axis_name = axis_name
        self.use_running_average = use_running_average
        self.dtype = dtype

    def set_view(self, use_running_average: bool | None = None, axis_name: str | None = None):
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if axis_name is not None:
            self.axis_name = axis_name

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_channels_last(x, self.num_features)
        dtype = self.dtype or x.dtype
        x = x.astype(wide(x.dtype))
        if self.use_running_average:
            centred = x - _of_channels(self.mean[...].astype(x.dtype), x)
            var = self.var[...].astype(x.dtype)
        else:
            centred, var = self._centred(x)
        scale, bias = self.scale[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        inverse = lax.rsqrt(var + self.epsilon) * scale
        y = centred * _of_channels(inverse, x) + _of_channels(bias, x)
        return y.astype(dtype)

    def _centred(self, x):
        """Return x less the batch's mean, the (biased) variance, and update the running ones."""
        axes = tuple(range(x.ndim - 1))
        count = math.prod(x.shape[:-1])
        if count == 0:  # nothing to learn from, and no mean of it
            return x, self.var[...].astype(x.dtype)
        mean = x.mean(axes)
        if self.axis_name is not None:
            mean = lax.pmean(mean, self.axis_name)
            count *= lax.axis_size(self.axis_name)
        centred = x - _of_channels(mean, x)
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


def _of_channels(a, x):
    """Give a vector over the channels of ``x`` the rank of ``x``."""
    return a.reshape((1,) * (x.ndim - 1) + a.shape)


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
        *,
        layer: Callable[..., nnx.Module] = conv,
        activation: Callable[[jax.Array], jax.Array] | None = relu,
        epsilon: float = 1e-5,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **options,
    ):
        self.conv = layer(in_features, out_features, kernel_size, dtype=dtype, rngs=rngs, **options)
        param_dtype = options.get("param_dtype", jnp.float32)
        norm = dict(epsilon=epsilon, dtype=dtype, param_dtype=param_dtype)
        self.norm = BatchNorm(out_features, **norm)
        self.activation = relu if activation is nnx.relu else activation

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(self.conv(as_floating(x=x)))
        return y if self.activation is None else self.activation(y)


class SqueezeExcite(nnx.Module):
    """Scale each channel by a gate computed from all: ``[N, *spatial, C] -> [N, *spatial, C]``.

    Global mean, linear to C // reduction, ReLU, linear to C, sigmoid. Hu et al., CVPR 2018.
    """

    def __init__(
        self,
        features: int,
        reduction: int = 16,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: lax.PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        if features < reduction:
            raise ValueError(f"features={features} is below reduction={reduction}")
        options = dict(dtype=dtype, param_dtype=param_dtype, precision=precision, rngs=rngs)
        self.reduce = linear(features, features // reduction, **options)
        self.expand = linear(features // reduction, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = as_channels_last(x, self.expand.out_features)
        if 0 in x.shape[1:]:
            raise ValueError(f"x has shape {x.shape}; expected no empty axis but that of the batch")
        gate = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
        gate = nnx.sigmoid(self.expand(nnx.relu(self.reduce(gate))))
        return x.astype(gate.dtype) * gate
