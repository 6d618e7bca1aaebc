# SPDX-License-Identifier: Apache-2.0
"""The end of a classifier: pooling, dropout and a linear layer."""

import dataclasses
from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from spectral_flax.arrays import as_floating, wide
from spectral_flax.layers.conv import linear
from spectral_flax.layers.numerics import Numerics
from spectral_flax.layers.remat import Rematerialisable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """Pooling, dropout and the linear layer at the end of a network.

    Attributes:
      num_classes: None leaves the linear layer out: the result is the pooled features.
      dropout: rate of dropout before the linear layer.
      pool_size: None averages the whole last map. A number averages windows of that height and
        width (and all frames) at every position, three numbers windows of so many frames, rows and
        columns; the linear layer's results are averaged.
      mean_of_probabilities: outside training the windows' probabilities are averaged, not their
        logits; the result is the logarithm of the mean.

    Raises:
      ValueError: no such number of classes, rate or window.
    """

    num_classes: int | None = 1000
    dropout: float = 0.0
    pool_size: int | Sequence[int] | None = None
    mean_of_probabilities: bool = False

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(
                f"num_classes={self.num_classes}; expected at least 1, or None for no head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"dropout={self.dropout}; expected a rate from 0 up to, not including, 1"
            )
        sizes = self.pool_size if isinstance(self.pool_size, Sequence) else (self.pool_size,)
        if len(sizes) not in (1, 3) or any(n is not None and n < 1 for n in sizes):
            raise ValueError(
                f"pool_size={self.pool_size!r}; expected a positive number, three, or None"
            )


class Classifier(Rematerialisable):
    """A network whose last feature map is pooled and classified.

    A subclass calls `_make_head` when it is built, which names that map, and lists all in
    ``features``.
    """

    rank: int
    deterministic = False

    def set_view(self, remat: bool | None = None, deterministic: bool | None = None) -> None:
        super().set_view(remat)
        if deterministic is not None:
            self.deterministic = deterministic

    def _make_head(
        self, last_map: str, features: int, head: Head, **numerics: Unpack[Numerics]
    ) -> None:
        size = head.pool_size
        self.head_pool_size = tuple(size) if isinstance(size, Sequence) else size
        self.last_map, self.num_features = last_map, features
        self.mean_of_probabilities = head.mean_of_probabilities
        self.dropout = nnx.Dropout(head.dropout, rngs=numerics["rngs"]) if head.dropout else None
        classes = head.num_classes
        self.head = None if classes is None else linear(features, classes, **numerics)

    def _checked(self, x: jax.Array, in_features: int) -> jax.Array:
        """Return the input as a floating array.

        Raises:
          ValueError: it is no batch of images, or videos, with so many channels.
        """
        x = as_floating(x=x)
        if x.ndim != self.rank + 2 or x.shape[-1] != in_features:
            axes = ["N", "T", "H", "W"] if self.rank == 3 else ["N", "H", "W"]
            expected = ", ".join([*axes, str(in_features)])
            raise ValueError(f"x has shape {x.shape}; expected [{expected}]")
        if 0 in x.shape[1:]:
            raise ValueError(f"x has shape {x.shape}; expected no empty spatial axis")
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.features(x)[self.last_map]
        if self.head_pool_size is None:
            x = x.mean(tuple(range(1, x.ndim - 1)))
        else:
            x = _window_means(x, self.head_pool_size)
        if self.dropout is not None:
            x = self.dropout(x)
        if self.head is not None:
            x = self.head(x)
        positions = tuple(range(1, x.ndim - 1))
        if self.head is not None and self.mean_of_probabilities and self.deterministic:
            exact = nnx.softmax(x.astype(wide(x.dtype))).mean(positions)
            return jnp.log(exact).astype(x.dtype)
        return x.mean(positions)


def _window_means(x: jax.Array, window: int | Sequence[int]) -> jax.Array:
    """Average windows at every position: ``[N, (T,) H, W, C] -> [N, (T',) H', W', C]``.

    One number is that of rows and of columns; all frames are averaged then. A map that is smaller
    than the window is one window.
    """
    y = x.astype(wide(x.dtype))
    if not isinstance(window, Sequence):
        y = y.mean(tuple(range(1, x.ndim - 3)))
        window = (window, window)
    window = tuple(
        min(size, n) for size, n in zip(window[-(y.ndim - 2) :], y.shape[1:-1], strict=True)
    )
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer
        return nnx.avg_pool(y, window).astype(x.dtype)
