"""Memory of traced programs, and sizes of memory as people write them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from spectral_flax.memory import available_memory, parse_memory, peak_memory, shown_memory


def peak(function):
    return peak_memory(jax.make_jaxpr(function)(jnp.ones(256)).jaxpr) // 1024  # arrays of 1 KiB


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (jnp.sin, 1),
        (lambda x: jnp.sin(jnp.cos(x)), 2),
        (lambda x: jnp.sin(jnp.cos(jnp.exp(x))), 2),  # the first is free by then
        (lambda x: jnp.sin(y := jnp.cos(jnp.exp(x))) + y, 3),
        (lambda x: lax.concatenate([jnp.sin(x)] * 3, 0), 4),
        (jax.jit(lambda x: jnp.sin(jnp.cos(x)) + 1), 2),
        (lambda x: lax.scan(lambda c, _: (jnp.sin(jnp.cos(c)), None), x, length=9)[0], 2),
    ],
)
def test_the_peak_is_of_what_is_alive_at_once(function, arrays):
    assert peak(function) == arrays


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 2**33), ("8g", 2**33), ("500 MiB", 500 * 2**20), ("1.5K", 1536), (7, 7)],
)
def test_sizes_of_memory_are_read(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "8 apples", "-8GiB", "0", "nan", "8GiBs", "1e9", "9" * 400])
def test_other_words_are_no_sizes(text):
    with pytest.raises(ValueError, match="8GiB"):
        parse_memory(text)


def test_sizes_are_shown_in_units():
    assert [shown_memory(n) for n in (1, 3 * 2**20, 2**30)] == ["1 B", "3 MiB", "1.0 GiB"]


def test_this_machine_has_memory_left():
    left = available_memory(jax.local_devices()[0])
    assert left is None or 2**20 < left < 2**50
