# SPDX-License-Identifier: Apache-2.0
"""The same work as a call in JAX and in PyTorch: inference, or forward and backward."""

import os

# Read when PyTorch is imported, which is later: its idle threads leave the cores to the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from spectral_flax.kernels.cpu import compiler_options, keep_freed_memory

# Before either library starts its threads; both profit.
keep_freed_memory()


def ours(module: nnx.Module, x: np.ndarray, backward: bool, amp: bool = False):
    """Return a call, and the bytes its compiled program plans for temporaries and results.

    Backward are the gradients of the mean square of the output, in the parameters and, for an
    operator in the midst of a model, in x. ``amp`` is for a module built with
    ``dtype=jnp.bfloat16``: x is bfloat16 as well.
    """
    mode = dict(use_running_average=not backward, deterministic=not backward)
    module = nnx.view(module, raise_if_not_found=False, **mode)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def forward(params, x):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        y = merged(x)
        return y, nnx.state(merged, nnx.BatchStat)

    def loss(params, x):
        y, statistics = forward(params, x)
        return jnp.square(y.astype(jnp.float32)).mean(), statistics

    call = jax.grad(loss, (0, 1) if x.shape[-1] > 3 else 0, has_aux=True) if backward else forward
    x = jnp.asarray(x, jnp.bfloat16 if amp else None)
    compiled = jax.jit(call, compiler_options=compiler_options()).lower(params, x).compile()
    memory = compiled.memory_analysis()
    planned = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return lambda: jax.block_until_ready(compiled(params, x)), planned


def theirs(module, x: np.ndarray, backward: bool, compiled: bool = False, amp: bool = False):
    """Return the call of a PyTorch module; ``x`` has channels last.

    With ``amp`` x is bfloat16, and so is what ``torch.autocast`` chooses; parameters stay float32.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Its best settings on a GPU, and the products of float32 that JAX makes there.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))).to(device)
    module = module.to(device).train(backward)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[x.ndim]
    x = x.to(dtype=torch.bfloat16 if amp else x.dtype, memory_format=layout)
    module = module.to(memory_format=layout)
    x.requires_grad_(backward and x.shape[1] > 3)
    run = torch.compile(module) if compiled else module

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return run(x)

    def call():
        if backward:
            module.zero_grad(set_to_none=True)
            x.grad = None
            forward().float().square().mean().backward()
        else:
            with torch.inference_mode():
                forward()
        if device == "cuda":
            torch.cuda.synchronize()

    return call
