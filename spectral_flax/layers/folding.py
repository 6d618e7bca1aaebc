# SPDX-License-Identifier: Apache-2.0
"""Batch normalisations folded into the convolutions before them, for inference."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from spectral_flax.layers.deformable import DeformableConv
from spectral_flax.layers.ffc import FFC
from spectral_flax.layers.norm import BatchNorm
from spectral_flax.layers.video_conv import FactorisedConv


class Folded(nnx.Module):
    """What stands in the place of a folded normalisation: returns its input."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """Return a copy for inference, its batch normalisations folded into the convolutions.

    With running statistics a normalisation is ``scale * x + bias``, which the kernel and the bias
    of the convolution before it can take over: the same outputs to rounding, in evaluation mode,
    with fewer passes over each map. ``model`` stays as it is; the copy has fewer parameters and
    other values, so that training goes on with, and checkpoints are written from, the original.

    A layer says in its attribute ``folds`` which of its convolutions a normalisation of its follows
    directly, as pairs of names; several names are convolutions whose sum is normalised.

    Raises:
      ValueError: a normalisation does not directly follow a convolution of a layer of this library,
        or there is none at all. It is named by its path.
    """
    folded = nnx.clone(model)
    folded.eval()
    found = False
    for _, module in list(nnx.iter_modules(folded)):
        for names, norm in getattr(type(module), "folds", ()):
            if isinstance(getattr(module, norm), BatchNorm):
                names = (names,) if isinstance(names, str) else names
                layers = [operator.attrgetter(name)(module) for name in names]
                _scale_sum(layers, *_affine(getattr(module, norm)))
                setattr(module, norm, Folded())
                found = True
    for path, module in nnx.iter_modules(folded):
        if isinstance(module, BatchNorm | nnx.BatchNorm):
            raise ValueError(
                f"the batch normalisation {'.'.join(map(str, path)) or 'itself'} cannot be folded; "
                "expected a layer that says in `folds` which convolution it follows"
            )
    if not found:
        raise ValueError(f"{type(model).__name__} has no batch normalisation to fold")
    if hasattr(folded, "record"):  # no model of the zoo has its arrays
        folded.record = dataclasses.replace(folded.record, model=None)
    return folded


def _affine(norm: BatchNorm):
    dtype = norm.mean[...].dtype
    scale = norm.scale[...].astype(dtype) * lax.rsqrt(norm.var[...] + norm.epsilon)
    return scale, norm.bias[...].astype(dtype) - norm.mean[...] * scale


def _scale_sum(layers, scale: jax.Array, bias: jax.Array) -> None:
    """Make the sum of the layers that are there ``scale * y + bias`` of what it is."""
    there = [layer for layer in layers if layer is not None]
    for i, layer in enumerate(there):  # the bias is added once
        _scale_output(layer, scale, bias if i == 0 else jnp.zeros_like(bias))


def _scale_output(layer: nnx.Module, scale: jax.Array, bias: jax.Array) -> None:
    """Make a layer return ``scale * y + bias`` of its output ``y``."""
    if isinstance(layer, FFC):
        spectral = layer.global_to_global
        paths = (
            (slice(None, layer.out_local), (layer.to_local, layer.global_to_local)),
            (slice(layer.out_local, None), (layer.local_to_global, spectral and spectral.expand)),
        )
        for channels, terms in paths:
            _scale_sum(terms, scale[channels], bias[channels])
        return
    if isinstance(layer, FactorisedConv):
        layer = layer.temporal
    if not isinstance(layer, nnx.Conv | nnx.ConvTranspose | DeformableConv):
        raise ValueError(f"no normalisation can be folded into a {type(layer).__name__}")
    kernel = layer.kernel[...]
    if layer.bias is not None:
        bias = bias + scale * layer.bias[...]
    factor = scale.reshape((1,) * (kernel.ndim - 1) + scale.shape)
    layer.kernel = nnx.Param((kernel * factor).astype(kernel.dtype))
    layer.bias = nnx.Param(bias.astype(kernel.dtype))
    layer.use_bias = True
