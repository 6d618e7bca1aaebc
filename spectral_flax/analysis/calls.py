# SPDX-License-Identifier: Apache-2.0
"""A hook around the call of each module of a model.

While a hook is set, each module has a subclass of its class whose call goes through the hook: no
module of the model is replaced, and Flax NNX has no such hook of its own.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

Hook = Callable[..., Any]
"""``hook(path, module, call, *args)`` returns the result of the call, as ``call(*args)`` does."""

_current: contextvars.ContextVar[tuple[Hook, dict[int, str]] | None] = contextvars.ContextVar(
    "hook", default=None
)


@contextlib.contextmanager
def hooked(model: nnx.Module, hook: Hook) -> Iterator[None]:
    """Send the calls of all modules of ``model`` through ``hook``, within the context.

    A copy made within the model, as rematerialisation makes, is called as ever.
    """
    named = ((".".join(map(str, path)), module) for path, module in nnx.iter_modules(model))
    modules = [(path, module) for path, module in named if callable(module)]
    classes = [type(module) for _, module in modules]
    token = _current.set((hook, {id(module): path for path, module in modules}))
    for (_, module), cls in zip(modules, classes, strict=True):
        object.__setattr__(module, "__class__", _with_hook(cls))
    try:
        yield
    finally:
        _current.reset(token)
        for (_, module), cls in zip(modules, classes, strict=True):
            object.__setattr__(module, "__class__", cls)


@functools.cache
def _with_hook(cls: type) -> type:
    def __call__(self, *args, **kwargs):
        call = functools.partial(cls.__call__, self)
        current = _current.get()
        path = None if current is None else current[1].get(id(self))
        if path is None:
            return call(*args, **kwargs)
        return current[0](path, self, call, *args, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})
