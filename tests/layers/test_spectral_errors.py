"""What spectral residual blocks say of options and maps that they cannot take."""

import jax.numpy as jnp
import pytest
from flax import nnx

from spectral_flax.functional import pairs
from spectral_flax.functional.fourier import RealFFT
from spectral_flax.layers.spectral import SpectralResidual, srl_fft, srl_lo

BLOCKS = {
    "fft": lambda: srl_fft(8, groups=4, rngs=nnx.Rngs(0)),
    "fft, spectrum relu": lambda: srl_fft(8, groups=4, spectrum_size=(6, 5), rngs=nnx.Rngs(0)),
    "lo": lambda: srl_lo(8, size=(6, 5), rngs=nnx.Rngs(0)),
    "lo, qr": lambda: srl_lo(8, size=(6, 5), orthogonal="qr", rngs=nnx.Rngs(0)),
    "lo, spectrum relu": lambda: srl_lo(8, size=(6, 5), spectrum_relu=True, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: srl_fft(12, rngs=nnx.Rngs(0)), "features=12 is not a multiple of groups=8"),
        (lambda: srl_fft(8, groups=0, rngs=nnx.Rngs(0)), "groups=0; expected a positive integer"),
        (
            lambda: srl_fft(8, groups=2.0, rngs=nnx.Rngs(0)),
            "groups=2.0; expected a positive integer",
        ),
        (lambda: srl_fft(-8, rngs=nnx.Rngs(0)), "features=-8; expected a positive integer"),
        (lambda: srl_fft(8, rank=4, rngs=nnx.Rngs(0)), "rank=4; expected 2"),
        (
            lambda: srl_fft(8, transform_time=True, rngs=nnx.Rngs(0)),
            "transform_time=True needs rank=3",
        ),
        (
            lambda: srl_fft(8, temporal_kernel=3, rngs=nnx.Rngs(0)),
            "temporal_kernel=3; .* 1 for images",
        ),
        (lambda: srl_fft(8, rank=3, temporal_kernel=2, rngs=nnx.Rngs(0)), "expected an odd number"),
        (
            lambda: srl_fft(8, rank=3, temporal_pooling="sum", rngs=nnx.Rngs(0)),
            "temporal_pooling='sum'",
        ),
        (
            lambda: srl_fft(8, bottleneck=3, rngs=nnx.Rngs(0)),
            "bottleneck=3 is not a multiple of groups=8",
        ),
        (lambda: srl_fft(8, spectrum_size=(0, 4), rngs=nnx.Rngs(0)), "spectrum_size=0; expected"),
        (lambda: srl_fft(8, norm="unitary", spectrum_size=(4, 4), rngs=nnx.Rngs(0)), "norm"),
        (
            lambda: srl_lo(8, size=(4, 4), orthogonal="cayley", rngs=nnx.Rngs(0)),
            "orthogonal='cayley'",
        ),
        (lambda: srl_lo(8, size=(4, 4, 4), rngs=nnx.Rngs(0)), r"size=\(4, 4, 4\); expected H, W"),
        (lambda: srl_lo(8, size=(4, -4), rngs=nnx.Rngs(0)), "size=-4; expected a positive integer"),
        (
            lambda: SpectralResidual(8, pair=RealFFT(2, 4), groups=2, rngs=nnx.Rngs(0)),
            "pair.groups=4 differs from groups=2",
        ),
        (
            lambda: SpectralResidual(8, pair=pairs.Cosine(3), rngs=nnx.Rngs(0)),
            "pair.rank=3 is above rank=2",
        ),
    ],
)
def test_options_that_make_no_sense_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("fft", (2, 3, 6, 5, 8), "a video batch; this block was built for .N, H, W, C."),
        ("fft", (6, 5, 8), "this block was built for .N, H, W, C."),
        ("fft", (2, 6, 5, 4), "x has 4 channels; this block was built for 8"),
        ("fft", (2, 0, 5, 8), "expected no empty axis"),
        ("lo", (2, 6, 6, 8), "the map is 6 x 6; this transform was built for 6 x 5"),
        ("lo, qr", (2, 5, 6, 8), "the map is 5 x 6; this transform was built for 6 x 5"),
        ("lo, spectrum relu", (2, 5, 6, 8), r"the map is \(5, 6\).* built for \(6, 5\)"),
        # A half spectrum has as many columns for widths 4 and 5: the map's own size is compared.
        ("fft, spectrum relu", (2, 6, 4, 8), r"the map is \(6, 4\).* built for \(6, 5\)"),
    ],
)
def test_maps_that_a_block_was_not_built_for_are_errors(name, shape, message):
    with pytest.raises(ValueError, match=message):
        BLOCKS[name]()(jnp.ones(shape))


def test_an_image_is_no_video():
    with pytest.raises(ValueError, match=r"an image batch; this block was built for .N, T, H, W"):
        srl_fft(8, rank=3, groups=4, rngs=nnx.Rngs(0))(jnp.ones((2, 6, 5, 8)))


def test_integers_are_no_map():
    with pytest.raises(TypeError, match="x has dtype int32; expected a real floating dtype"):
        BLOCKS["fft"]()(jnp.ones((2, 6, 5, 8), jnp.int32))
