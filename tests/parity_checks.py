"""Comparison of modules with the published cases of tests/parity."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import fill

from spectral_flax.checkpoints.correspondence import torch_entries
from spectral_flax.checkpoints.load import load_torch
from spectral_flax.checkpoints.names import tables_for

ROOT = pathlib.Path(__file__).parent / "parity"
# For the argument x64. Layers compute the same in both; `.ci/run` has float32's own bounds, with
# programs compiled as users' are.
PRECISIONS = [
    pytest.param(False, id="float32", marks=pytest.mark.full),
    pytest.param(True, id="float64"),
]


def check_parity(case: str, build, *, x64: bool = False, bound: float | None = None) -> dict:
    """Compare ``build(**dtypes)`` with a case: output, gradient, training output and statistics.

    In float32 the bounds are those of the fixtures' README: 20 times what float32 costs PyTorch
    for the output, the larger of that and 1e-5 for the rest. In float64 all is within 1e-7.
    Returns the relative errors.
    """
    about, state, x, expected = fill.load(case, ROOT)
    dtype = jnp.float64 if x64 else jnp.float32
    with jax.enable_x64(x64):
        model = build(dtype=dtype, param_dtype=dtype)
        load_torch(model, state)
        x = jnp.asarray(_channels_last(x), dtype)
        graphdef, state = nnx.split(nnx.view(model, **_mode(True)))

        # Weights are an argument: of constants XLA would compute what it can while it compiles.
        def apply(state, x):
            return nnx.merge(graphdef, state, copy=True)(x)

        errors = {"output": relative_error(jax.jit(apply)(state, x), _output(expected, "output"))}
        if "grad_input" in expected:
            cotangent = jnp.asarray(_cotangent(about, expected), dtype)
            pull = jax.jit(lambda state, x, y: jax.vjp(lambda x: apply(state, x), x)[1](y)[0])
            gradient = pull(state, x, cotangent)
            errors["gradient"] = relative_error(gradient, _channels_last(expected["grad_input"]))
        if any(key.startswith("train_output") for key in expected):
            errors |= _training_errors(model, x, expected)
    loose = 20 * about["float32_relative_error"]
    for what, error in errors.items():
        limit = bound or (1e-7 if x64 else loose if what == "output" else max(loose, 1e-5))
        assert error <= limit, f"{case}: {what} is off by {error:.2e}; allowed {limit:.2e}"
    return errors


def relative_error(actual, expected) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{actual.shape} for {expected.shape}"
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _training_errors(model, x, expected) -> dict:
    graphdef, state = nnx.split(nnx.view(model, **_mode(False)))

    @jax.jit
    def train(state, x):
        trained = nnx.merge(graphdef, state, copy=True)
        return trained(x), nnx.state(trained)

    y, state = train(state, x)
    errors = {"training output": relative_error(y, _output(expected, "train_output"))}
    trained = nnx.merge(graphdef, state)
    published = {k[12:]: v for k, v in expected.items() if k.startswith("train_state:")}
    ours = {}
    for _, rules in tables_for(trained):
        ours = {k: v for e in torch_entries(trained, rules) for k, v in e.to_torch().items()}
        if published.keys() <= ours.keys():
            break
    for name, value in published.items():
        errors[f"training {name}"] = relative_error(ours[name], value)
    return errors


def _cotangent(about, expected):
    """The published one: a draw for each path, from the seeds after the input's."""
    seed = about["input"]["seed"]
    draws = [
        fill.inputs(list(np.moveaxis(y, -1, 1).shape), seed + i)
        for i, y in enumerate(_paths(expected, "output"), start=1)
    ]
    return np.concatenate([_channels_last(draw) for draw in draws], -1)


def _mode(evaluation: bool) -> dict:
    mode = dict(use_running_average=evaluation, deterministic=True)
    return dict(raise_if_not_found=False, **mode)


def _paths(expected, key) -> list:
    """The outputs of a case: one, or a local and a global one; channels last."""
    keys = [k for k in (key, f"{key}_local", f"{key}_global") if k in expected]
    return [_channels_last(expected[k]) for k in keys]


def _output(expected, key):
    return np.concatenate(_paths(expected, key), -1)


def _channels_last(x):
    return np.moveaxis(np.asarray(x), 1, -1) if np.ndim(x) > 2 else np.asarray(x)
