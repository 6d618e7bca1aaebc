# SPDX-License-Identifier: Apache-2.0
"""How arrays of a PyTorch state dict become ours, and back."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Layout:
    """Turns the PyTorch arrays that one array of ours is made of into it, and back.

    Both functions are given the module that holds the array's layer (for ``stage1.0.conv1.norm``
    matched by a rule, the module ``stage1.0.conv1``), whose attributes tell sizes. They work on
    NumPy arrays. ``to_torch`` returns as many as its rule has names, with None for an entry that
    the published model does not have; ``from_torch`` is given those that it has. ``of_complex``
    says that the entries are complex numbers.
    """

    from_torch: Callable[[Sequence[np.ndarray], Any], np.ndarray]
    to_torch: Callable[[np.ndarray, Any], list[np.ndarray | None]]
    of_complex: bool = False


def each(inner: Layout, outer: Layout) -> Layout:
    """Turn every entry into our order by ``inner``, then combine them by ``outer``."""

    def from_torch(arrays, owner):
        return outer.from_torch([inner.from_torch([a], owner) for a in arrays], owner)

    def to_torch(array, owner):
        parts = outer.to_torch(array, owner)
        return [None if part is None else inner.to_torch(part, owner)[0] for part in parts]

    return Layout(from_torch, to_torch)


def single(from_torch, to_torch) -> Layout:
    """Return a layout of one entry, from two functions of one array."""
    return Layout(lambda arrays, _: from_torch(arrays[0]), lambda array, _: [to_torch(array)])


# (O, I, *window) <-> (*window, I, O): convolutions of any rank, grouped or not, and linear layers.
dense = single(
    lambda w: np.moveaxis(w, (0, 1), (-1, -2)), lambda w: np.moveaxis(w, (-1, -2), (0, 1))
)

same = single(lambda a: a, lambda a: a)

# (O, I, 1, 1) <-> (I, O): a 1x1 convolution that is a linear layer here; its bias as it is.
linear_of_pointwise = single(
    lambda w: w.reshape(w.shape[:2]).T if w.ndim > 1 else w,
    lambda w: w.T.reshape(*w.T.shape, 1, 1) if w.ndim > 1 else w,
)


def _flip(w):
    return w[tuple(slice(None, None, -1) for _ in w.shape[:-2])]


# (I, O, *window) <-> (*window, I, O), the window turned: lax correlates where PyTorch scatters.
transposed = single(
    lambda w: _flip(np.moveaxis(w, (0, 1), (-2, -1))),
    lambda w: np.moveaxis(_flip(w), (-2, -1), (0, 1)),
)


def _packed(axis_length: int, groups: int) -> np.ndarray:
    """Positions in PyTorch's order (channel, re/im) of our order (group, re/im, channel)."""
    order = np.arange(axis_length).reshape(groups, axis_length // (2 * groups), 2)
    return order.transpose(0, 2, 1).reshape(-1)


def _spectrum_from(array, groups):
    array = np.take(array, _packed(array.shape[-1], groups), axis=-1)
    if array.ndim > 1:  # a kernel: its inputs are those of one group
        array = np.take(array, _packed(array.shape[-2], 1), axis=-2)
    return array


def _spectrum_to(array, groups):
    array = np.take(array, np.argsort(_packed(array.shape[-1], groups)), axis=-1)
    if array.ndim > 1:
        array = np.take(array, np.argsort(_packed(array.shape[-2], 1)), axis=-2)
    return array


# Published spectra interleave real and imaginary parts; ours are packed (see functional.fourier).
spectrum = Layout(
    lambda arrays, owner: _spectrum_from(arrays[0], owner.groups),
    lambda array, owner: [_spectrum_to(array, owner.groups)],
)


def joined(axis: int, sizes: Callable[[Any], Sequence[int]]) -> Layout:
    """Return a layout of entries joined along ``axis`` of our array; ``sizes(owner)`` are theirs.

    A size of 0 means that the published model has no such entry.
    """

    def from_torch(arrays, owner):
        return np.concatenate(list(arrays), axis)

    def to_torch(array, owner):
        parts = np.split(array, np.cumsum(sizes(owner))[:-1], axis)
        return [part if size else None for part, size in zip(parts, sizes(owner), strict=True)]

    return Layout(from_torch, to_torch)


def summed(sizes: Callable[[Any], Sequence[int]]) -> Layout:
    """Return a layout of biases whose layers' outputs are added: ours is their sum.

    Ours becomes the bias of the first layer that is there, and those of the others are zero.
    ``sizes`` as in `joined`.
    """

    def from_torch(arrays, owner):
        return sum(np.asarray(a, np.result_type(a, np.float32)) for a in arrays)

    def to_torch(array, owner):
        there = [i for i, size in enumerate(sizes(owner)) if size]
        parts = {i: np.zeros_like(array) for i in there} | {there[0]: array}
        return [parts.get(i) for i in range(len(sizes(owner)))]

    return Layout(from_torch, to_torch)


def usual(module: nnx.Module, leaf: str) -> Layout:
    """Return the layout of an array of a common layer."""
    if leaf != "kernel":
        return same
    return transposed if isinstance(module, nnx.ConvTranspose) else dense


LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
