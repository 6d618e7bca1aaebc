# SPDX-License-Identifier: Apache-2.0
"""Named models that are one function with some of its options fixed."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from spectral_flax.layers.numerics import parameters_of
from spectral_flax.models.registry import Card, register

# No option of a plain network: the FFC's.
PLAIN = dict(
    ratio=0.0, lfu=False, local_to_global=True, global_to_local=True, implementation="auto"
)

BLOCK_TITLES = {
    "nl": "non-local blocks",
    "a2": "double attention blocks",
    "cgnl": "a compact generalized non-local block",
    "cgnl_rbf": "a compact generalized non-local block (RBF kernel)",
    "rcca": "recurrent criss-cross attention blocks",
    "glore": "graph reasoning units",
    "srl_fft": "spectral residual blocks (Fourier)",
    "srl_lo": "spectral residual blocks (learned orthogonal)",
    "bat": "bilinear attention blocks",
    "bat3d": "spatio-temporal bilinear attention blocks",
}

_SRL = "Chi et al., Fast Non-Local Neural Networks with Spectral Residual Learning, ACM MM 2019"
_BAT = (
    "Chi et al., Non-Local Neural Networks with Grouped Bilinear Attentional Transforms, CVPR 2020"
)
BLOCK_PAPERS = {
    "nl": "Wang et al., Non-local Neural Networks, CVPR 2018",
    "a2": "Chen et al., A2-Nets: Double Attention Networks, NeurIPS 2018",
    "cgnl": "Yue et al., Compact Generalized Non-local Network, NeurIPS 2018",
    "cgnl_rbf": "Yue et al., Compact Generalized Non-local Network, NeurIPS 2018",
    "rcca": "Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, ICCV 2019",
    "glore": "Chen et al., Graph-Based Global Reasoning Networks, CVPR 2019",
    "srl_fft": _SRL,
    "srl_lo": _SRL,
    "bat": _BAT,
    "bat3d": _BAT,
}


def define(
    name: str,
    function: Callable[..., nnx.Module],
    card: Card,
    doc: str,
    *,
    defaults: Mapping[str, Any] | None = None,
    **fixed: Any,
):
    """Register ``function`` as the model ``name``.

    The options ``fixed`` are no longer open; those in ``defaults`` have another default.
    """
    defaults = dict(defaults or {})

    def build(**options) -> nnx.Module:
        return function(**fixed, **defaults | options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{doc}\n\nOptions as in `{function.__module__}.{function.__name__}`."
    build.__module__ = function.__module__
    build.__signature__ = _signature(function, frozenset(fixed), tuple(defaults.items()))
    return register(card)(build)


@functools.cache
def _signature(function, fixed: frozenset[str], defaults: tuple[tuple[str, Any], ...]):
    new = dict(defaults)
    open_ = [
        p.replace(default=new.get(name, p.default))
        for name, p in parameters_of(function).items()
        if name not in fixed
    ]
    return inspect.Signature(open_)
