import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from spectral_flax.functional import convolution


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize(
    ("window", "padding", "dilation"), [(1, 0, 1), (1, 1, 1), (3, 1, 1), (3, 2, 2), (2, 0, 1)]
)
@pytest.mark.parametrize("rank", [2, 3])
def test_every_form_is_the_convolution(rank, window, padding, dilation, strides, groups):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *(5, 6, 7)[:rank], 8)).astype(np.float32)
    kernel = rng.standard_normal((*(window,) * rank, 8 // groups, 16)).astype(np.float32)
    spatial = "DHW"[:rank]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    args = ((strides,) * rank, ((padding, padding),) * rank)
    options = dict(rhs_dilation=(dilation,) * rank, feature_group_count=groups)
    ours = convolution(x, kernel, *args, **options)
    wanted = lax.conv_general_dilated(x, kernel, *args, **options, dimension_numbers=numbers)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_bfloat16_stays_bfloat16(groups):
    x, kernel = jnp.ones((1, 4, 4, 8), jnp.bfloat16), jnp.ones((3, 3, 8 // groups, 8), jnp.bfloat16)
    padding = ((1, 1), (1, 1))
    y = jax.jit(lambda x, k: convolution(x, k, (1, 1), padding, feature_group_count=groups))(
        x, kernel
    )
    assert y.dtype == jnp.bfloat16
