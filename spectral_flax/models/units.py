# SPDX-License-Identifier: Apache-2.0
"""What residual blocks are made of: convolutions of each kind, normalised and activated.

Each function returns a ``unit`` as `Residual` takes it.
"""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

from spectral_flax.layers.conv import conv
from spectral_flax.layers.deformable import DeformableConv
from spectral_flax.layers.ffc import FFC
from spectral_flax.layers.norm import ConvNormAct
from spectral_flax.layers.octave import OctaveConvNormAct
from spectral_flax.layers.video_conv import FactorisedConv, features_between
from spectral_flax.models.residual import BlockShape, Unit

UnitOf = Callable[[BlockShape, float, float], Unit]


def fourier(
    *, local_to_global: bool = True, global_to_local: bool = True, **options: Any
) -> UnitOf:
    """Return the unit of fast Fourier convolutions, plain ones where there is no global path.

    What splits a map into its paths, or joins them, has both exchanges whatever the options say: a
    path would have no input, or its output no use.
    """

    def unit(shape: BlockShape, ratio_in: float, ratio_out: float) -> Unit:
        if ratio_in == ratio_out == 0:
            return ConvNormAct
        ends = ratio_in == 0 or ratio_out == 0
        layer = functools.partial(
            FFC,
            ratio_in=ratio_in,
            ratio_out=ratio_out,
            local_to_global=local_to_global or ends,
            global_to_local=global_to_local or ends,
            **options,
        )
        return functools.partial(ConvNormAct, layer=layer)

    return unit


def octave(shape: BlockShape, ratio_in: float, ratio_out: float) -> Unit:
    """Return the unit of octave convolutions; those of stride 2 are such even at ratio 0."""
    return functools.partial(OctaveConvNormAct, ratio_in=ratio_in, ratio_out=ratio_out)


def deformable(*, modulated: bool) -> UnitOf:
    """Return the unit of a network some of whose 3x3 convolutions are deformable."""
    layer = functools.partial(_of_windows, functools.partial(DeformableConv, modulated=modulated))

    def unit(shape: BlockShape, ratio_in: float, ratio_out: float) -> Unit:
        return functools.partial(ConvNormAct, layer=layer) if shape.deformable else ConvNormAct

    return unit


def factorised(shape: BlockShape, ratio_in: float, ratio_out: float) -> Unit:
    """Return the unit of (2+1)-D convolutions.

    The features between the two steps are those of the block's first convolution in all of them, as
    published.
    """
    mid = features_between(shape.in_features, shape.width)
    layer = functools.partial(_of_windows, functools.partial(FactorisedConv, mid_features=mid))
    return functools.partial(ConvNormAct, layer=layer)


def _of_windows(
    layer: Callable[..., nnx.Module], in_features: int, out_features: int, kernel_size, **options
) -> nnx.Module:
    """Build the layer, or where the kernel covers one position alone a plain convolution."""
    build = conv if set(kernel_size) == {1} else layer
    return build(in_features, out_features, kernel_size, **options)
