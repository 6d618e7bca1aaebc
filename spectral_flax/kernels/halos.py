# SPDX-License-Identifier: Apache-2.0
"""Convolution of maps whose rows are split over devices, with rows of their neighbours.

XLA's partitioner does so for plain convolutions. It gathers maps for grouped ones, and for the
kernel's gradient of transposed ones, whose map is spread out by ``lhs_dilation``; with strides that
gradient is wrong where the result has fewer rows than there are devices (jax 0.10.2).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_flax.kernels.pencils import Names


class _Needed(NamedTuple):
    """The rows that the parts of devices need, counted from the first row that each has."""

    starts: Sequence[int]
    """The first one, of each device."""
    count: int
    """How many, of every device."""
    length: int
    """Rows that these are when they are spread out by the dilation, and zeros at the end."""
    before: Sequence[int]
    """Results of the convolution of these that come before the first one of each device."""


@dataclasses.dataclass(frozen=True)
class SharedRows:
    """A convolution ``[N, *, H, W, C], [*window, I, O] -> [N, *, H', W', O]``, channels last.

    ``options`` compute it, ``height`` and ``window`` are H and the rows of a window. Along the rows
    there are strides or a dilation of the map, not both. ``across`` is for `batch_parallel`.
    ``mirrored`` rows are padded by reflection, without a dilation, the same on both sides, by less
    than half of a window and by fewer than there are.
    """

    options: Any
    height: int
    window: int
    mirrored: bool = False

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        if not self.mirrored:
            return self.options(x, kernel)
        padding = list(self.options.padding)
        pads = [padding[-2] if axis == x.ndim - 3 else (0, 0) for axis in range(x.ndim)]
        padding[-2] = (0, 0)
        options = dataclasses.replace(self.options, padding=tuple(padding))
        return options(jnp.pad(x, pads, mode="reflect"), kernel)

    def across(self, names: Names) -> Callable[[jax.Array, jax.Array], jax.Array]:
        def local(x, kernel):
            axis, index = x.ndim - 3, lax.axis_index(names)
            rows = -(-self._rows // lax.axis_size(names))
            needed = self._needed(lax.axis_size(names), x.shape[axis], rows)
            own = x.shape[axis]
            x = _gathered(_zeros_beyond(x, self.height - index * own, axis), names, needed, axis)
            if self.mirrored:
                first = index * own + jnp.asarray(needed.starts)[index]
                margin = self.options.padding[-2][0]
                x = _mirrored_beyond(x, first, self.height, margin, axis)
            y = self._convolved(x, kernel, needed)
            if max(needed.before):
                start = jnp.asarray(needed.before)[index]
                y = lax.dynamic_slice_in_dim(y, start, rows, axis)
            return _zeros_beyond(
                lax.slice_in_dim(y, 0, rows, axis=axis), self._rows - index * rows, axis
            )

        return local

    @property
    def _of_rows(self):
        """Return stride, dilation of the map and padding before and after it."""
        options = self.options
        lists = options.window_strides, options.lhs_dilation, options.padding
        return (of[-2] for of in lists)

    @property
    def _rows(self):
        stride, dilation, (before, after) = self._of_rows
        spread = (self.height - 1) * dilation + 1
        return (before + spread + after - self.window) // stride + 1

    def _needed(self, devices, own, rows) -> _Needed:
        stride, dilation, (padding, _) = self._of_rows
        firsts = stride * rows * np.arange(devices) - padding  # in the map that is spread out
        starts, before = firsts // dilation, firsts % dilation
        length = (rows - 1) * stride + self.window + dilation - 1
        starts = starts - own * np.arange(devices)
        return _Needed(starts.tolist(), (length - 1) // dilation + 1, length, before.tolist())

    def _convolved(self, x, kernel, needed):
        _, dilation, _ = self._of_rows
        spread = (needed.count - 1) * dilation + 1
        padding = list(self.options.padding)
        padding[-2] = (0, needed.length - spread)
        return dataclasses.replace(self.options, padding=tuple(padding))(x, kernel)


def _gathered(x, names, needed, axis):
    """Return the rows that a device needs, from those that have them; zeros outside the map."""
    devices, own = lax.axis_size(names), x.shape[axis]
    first, last = min(needed.starts), max(needed.starts) + needed.count
    parts = []
    for away in range(first // own, (last - 1) // own + 1):
        limits = max(first - away * own, 0), min(last - away * own, own)
        part = lax.slice_in_dim(x, *limits, axis=axis)
        if away:
            pairs = [(i + away, i) for i in range(devices) if 0 <= i + away < devices]
            part = lax.ppermute(part, names, pairs) if pairs else jnp.zeros_like(part)
        parts.append(part)
    x = jnp.concatenate(parts, axis)
    if len(set(needed.starts)) > 1:
        start = jnp.asarray(needed.starts)[lax.axis_index(names)] - first
        x = lax.dynamic_slice_in_dim(x, start, needed.count, axis)
    return x


def _mirrored_beyond(x, first, height, margin, axis):
    """Return rows of a map from ``first`` on, those up to a margin outside of it mirrored."""
    count = x.shape[axis]
    size = 2 * margin + 1  # rows beyond the edge, it, and their mirror images
    for outside, edge in ((-1, 0), (1, height - 1)):
        start = jnp.clip(edge - first - margin, 0, count - size)
        rows = lax.dynamic_slice_in_dim(x, start, size, axis)
        away = [(size, size, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        images = lax.pad(lax.rev(rows, (axis,)), jnp.zeros((), x.dtype), away)
        images = lax.dynamic_slice_in_dim(images, 2 * (size + first + start - edge) - 1, size, axis)
        row = first + start + lax.broadcasted_iota(np.int32, (size, 1, 1), 0)
        rows = jnp.where(outside * (row - edge) > 0, images, rows)
        x = lax.dynamic_update_slice_in_dim(x, rows, start, axis)
    return x


def _zeros_beyond(x, rows, axis):
    """Return a part of a map with zeros from a row on: a device may have fewer than others."""
    exists = lax.broadcasted_iota(np.int32, (x.shape[axis], 1, 1), 0) < rows
    return jnp.where(exists, x, jnp.zeros((), x.dtype))
