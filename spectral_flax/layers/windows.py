# SPDX-License-Identifier: Apache-2.0
"""How the windows of a convolution cover a map."""

from typing import NamedTuple

from spectral_flax.layers.conv import Padding, Size, as_padding, as_tuple, dilated


class Window(NamedTuple):
    """How a convolution covers an axis."""

    extent: int  # of the dilated kernel
    stride: int
    padding: int | None  # None is TensorFlow's "SAME"

    def count(self, size: int) -> int:
        """Return the positions of the result for an axis of that size."""
        if self.padding is None:
            return -(-size // self.stride)
        return (size + 2 * self.padding - self.extent) // self.stride + 1

    @property
    def margin(self) -> int:
        """The padding beyond that which keeps the size at stride 1."""
        return 0 if self.padding is None else max(0, self.padding - (self.extent - 1) // 2)

    @property
    def start(self) -> int:
        """The first position of the axis that lies in the middle of a window's place."""
        if self.padding is None:
            return 0
        return max(0, (self.extent - self.stride - 2 * self.padding) // 2)


def windows(
    rank: int, kernel_size: Size, strides: Size, padding: Padding, kernel_dilation: Size
) -> tuple[Window, ...]:
    """Return the windows of all axes, with the padding of `conv`."""
    options = dict(kernel_size=kernel_size, strides=strides, kernel_dilation=kernel_dilation)
    options = {name: as_tuple(value, rank, name) for name, value in options.items()}
    for name, values in options.items():
        if min(values) < 1:
            raise ValueError(f"{name}={values}; expected positive integers")
    sizes, steps, dilations = options.values()
    extents = dilated(sizes, dilations)
    margins = as_padding(padding, extents)
    return tuple(map(Window, extents, steps, (None,) * rank if margins == "SAME" else margins))
