# SPDX-License-Identifier: Apache-2.0
"""Checks of the options and the input of a block."""

import jax
import numpy as np

from spectral_flax.arrays import as_floating


def check_positive(**values: int) -> None:
    """Raise ValueError, naming the option, unless each value is a positive integer."""
    for name, value in values.items():
        integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not integer or value < 1:
            raise ValueError(f"{name}={value!r}; expected a positive integer")


def check_multiple(name: str, value: int, **divisors: int) -> None:
    """Raise ValueError, naming both, unless ``value`` is a multiple of each divisor."""
    check_positive(**{name: value}, **divisors)
    for divisor_name, divisor in divisors.items():
        if value % divisor:
            raise ValueError(f"{name}={value} is not a multiple of {divisor_name}={divisor}")


def check_rank(rank: int) -> None:
    """Raise ValueError unless ``rank`` is 2 (images) or 3 (videos)."""
    if rank not in (2, 3):
        raise ValueError(f"rank={rank!r}; expected 2 (image) or 3 (video)")


def as_map(x: jax.Array, rank: int, features: int) -> jax.Array:
    """Return ``x`` if it is a batch of images (rank 2) or videos (rank 3) with these channels.

    The batch may be empty.

    Raises:
      TypeError: ``x`` is not a floating array.
      ValueError: it has another number of axes, of channels, or an empty axis of space or time.
    """
    x = as_floating(x=x)
    expected = "[N, H, W, C]" if rank == 2 else "[N, T, H, W, C]"
    if x.ndim != rank + 2:
        kind = {4: ", an image batch", 5: ", a video batch"}.get(x.ndim, "")
        raise ValueError(f"x has shape {x.shape}{kind}; this block was built for {expected}")
    if x.shape[-1] != features:
        raise ValueError(f"x has {x.shape[-1]} channels; this block was built for {features}")
    if 0 in x.shape[1:]:
        raise ValueError(f"x has shape {x.shape}; expected no empty axis but that of the batch")
    return x


def as_channels_last(x: jax.Array, features: int) -> jax.Array:
    """Return ``x`` if it is an array ``[..., features]`` of a floating dtype.

    Raises:
      TypeError: it is not a real floating array.
      ValueError: it has another number of channels.
    """
    x = as_floating(x=x)
    if x.ndim < 1 or x.shape[-1] != features:
        channels = f"{x.shape[-1]} channels" if x.ndim else "no axis"
        raise ValueError(f"x has {channels}; expected {features}")
    return x
