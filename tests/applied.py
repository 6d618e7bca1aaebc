"""Modules as compiled functions: those that differ in values alone share a program."""

import functools

import jax
from flax import nnx


def apply(module, *x, method="__call__"):
    """Call a module, or a method of it, in one compiled program; the module does not change."""
    graphdef, state = nnx.split(module)
    return _call(graphdef, method, state, *x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _call(graphdef, method, state, *x):
    return getattr(nnx.merge(graphdef, state, copy=True), method)(*x)
