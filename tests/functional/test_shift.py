"""Shift of channels between frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_flax.functional import temporal_shift


@pytest.mark.parametrize("frames", range(1, 10))
@pytest.mark.parametrize("channels, share", [(16, 8), (9, 4), (3, 8)])
def test_a_shift_is_its_definition(frames, channels, share):
    x = np.random.default_rng(0).standard_normal((2, frames, 3, 2, channels)).astype(np.float32)
    width = channels // share
    wanted = x.copy()
    for t in range(frames):
        after = x[:, t + 1] if t + 1 < frames else np.zeros_like(x[:, 0])
        before = x[:, t - 1] if t else np.zeros_like(x[:, 0])
        wanted[:, t, ..., :width] = after[..., :width]
        wanted[:, t, ..., width : 2 * width] = before[..., width : 2 * width]
    np.testing.assert_array_equal(temporal_shift(x, share), wanted)


def test_its_gradient_is_the_shift_back():
    y = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 2, 2, 8)), jnp.float32)
    (gradient,) = jax.vjp(lambda x: temporal_shift(x, 4), y)[1](y)
    back = temporal_shift(y[:, ::-1], 4)[:, ::-1]
    np.testing.assert_array_equal(gradient, back)


@pytest.mark.parametrize(
    ("shape", "share", "told"), [((1, 2, 3), 1, "share=1; expected 2"), ((2, 3), 8, "x has shape")]
)
def test_what_cannot_be_shifted_is_refused(shape, share, told):
    with pytest.raises(ValueError, match=told):
        temporal_shift(jnp.ones(shape), share)
