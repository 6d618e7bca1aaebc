# SPDX-License-Identifier: Apache-2.0
import functools

import collectives
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType

from spectral_flax.functional import convolution
from spectral_flax.kernels import convolution_forms
from spectral_flax.kernels.convolution_forms import Y, by_jax, convolution_form, on_cpu

# input shape, window, features, strides, padding, dilation: one for each form, odd sizes, edges
CASES = {
    "pointwise, narrowing": ((2, 5, 6, 12), (1, 1), 4, 1, 0, 1),
    "pointwise, widening": ((2, 5, 6, 4), (1, 1), 12, 1, 0, 1),
    "pointwise, padded and strided": ((2, 5, 6, 8), (1, 1), 4, 2, 1, 1),
    "small map": ((2, 5, 6, 8), (3, 3), 4, 1, 1, 1),
    "small map, strided": ((2, 7, 6, 8), (3, 3), 4, 2, 1, 1),
    "small map, dilated": ((2, 7, 6, 8), (3, 2), 4, 1, 2, 2),
    "large map": ((3, 17, 16, 8), (3, 3), 4, 1, 1, 1),
    "large map, unpadded and dilated": ((3, 19, 18, 8), (3, 2), 12, 1, 0, 2),
    "large map, unpadded and strided": ((3, 35, 34, 8), (3, 3), 4, 2, 0, 1),
    "large map, strided": ((3, 33, 32, 8), (3, 3), 4, 2, 1, 1),
    "large map of many channels": ((3, 17, 16, 48), (3, 3), 64, 1, 1, 1),
    "large map of many channels, unpadded": ((3, 17, 16, 64), (3, 3), 48, 1, 0, 1),
    "thin input": ((2, 9, 8, 3), (5, 5), 4, 2, 2, 1),
    "wide window": ((2, 9, 8, 8), (7, 7), 4, 1, 3, 1),
    "cropped": ((2, 9, 8, 8), (3, 3), 4, 1, -1, 1),
    "one axis": ((2, 9, 8), (3,), 4, 2, 1, 1),
    "small video": ((2, 3, 5, 4, 8), (3, 3, 3), 4, 2, 1, 1),
    "video": ((2, 5, 9, 8, 8), (3, 3, 3), 4, 1, 1, 1),
    "video of many channels": ((2, 4, 16, 17, 48), (3, 3, 3), 48, (2, 1, 1), 1, 1),
    "video, strided and dilated": ((2, 7, 13, 12, 8), (3, 1, 1), 4, (2, 1, 1), (2, 0, 0), 2),
}


def arrays(case):
    shape, window, features, strides, padding, dilation = CASES[case]
    rank = len(window)
    strides, padding = (a if isinstance(a, tuple) else (a,) * rank for a in (strides, padding))
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.standard_normal(s), jnp.float32)
        for s in (shape, (*window, shape[-1], features))
    )
    pairs = tuple((p, p) for p in padding)
    form = convolution_form(x, kernel, strides, pairs, (dilation,) * rank, None)
    y = jnp.asarray(rng.standard_normal(form.shapes[2]), jnp.float32)
    return form, (x, kernel, y)


@pytest.mark.parametrize("case", [case for case in CASES if "large" in case or "wide" in case])
def test_a_map_too_large_for_its_views_is_convolved_by_bands(case, monkeypatch):
    form, (x, kernel, _) = arrays(case)
    monkeypatch.setattr(convolution_forms, "_VIEWS", 5000)
    y = jax.jit(functools.partial(on_cpu, form, Y))(x, kernel)
    np.testing.assert_allclose(y, by_jax(form, Y, x, kernel), atol=2e-5 * np.sqrt(kernel.size))


@pytest.mark.parametrize("case", CASES)
def test_a_form_and_its_gradients_are_those_of_jax(case):
    form, three = arrays(case)

    def results(compute, three):
        given = lambda result: (a for i, a in enumerate(three) if i != result)
        return [compute(form, result, *given(result)) for result in range(3)]

    pairs = (jax.jit(functools.partial(results, f))(three) for f in (by_jax, on_cpu))
    for wanted, ours in zip(*pairs, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_minimal_filtering_is_for_the_default_precision_alone():
    form, (x, kernel, _) = arrays("large map of many channels")

    def convolutions(**options):
        asked = form.__class__(**{**form.__dict__, **options})
        text = jax.jit(functools.partial(on_cpu, asked, Y)).lower(x, kernel).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions() == 0
    assert convolutions(precision=lax.Precision.HIGHEST) == 1

    def lowered():  # anew for each setting, as the function is
        same = jax.jit(lambda x, kernel: convolution(x, kernel, (1, 1), "SAME"))
        return same.lower(x, kernel).as_text().count("stablehlo.convolution")

    assert lowered() == 0
    with jax.default_matmul_precision("highest"):
        assert lowered() == 1


@pytest.mark.parametrize("case", ["small map", "large map, strided", "video"])
def test_every_transformation_is_that_of_the_plain_convolution(case):
    form, (x, kernel, _) = arrays(case)

    def plain(x, kernel):
        spatial = "DHW"[-len(form.strides) :]
        return lax.conv_general_dilated(
            x,
            kernel,
            form.strides,
            form.padding,
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        )

    ours = lambda x, kernel: convolution(x, kernel, form.strides, form.padding)
    f, g = (lambda x, k, c=c: jnp.sin(c(x, k)).mean() for c in (plain, ours))
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(np.asarray(a), jnp.float64) for a in (x, kernel))
        for transform in (
            lambda f: jax.grad(f, (0, 1)),
            lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
            lambda f: lambda x, k: jax.jvp(f, (x, k), (jnp.cos(x), jnp.cos(k))),
            lambda f: lambda x, k: jax.jvp(jax.grad(f, (0, 1)), (x, k), (x, k)),
            lambda f: jax.grad(lambda x, k: jnp.square(jax.grad(f)(x, k)).sum(), (0, 1)),
            lambda f: lambda x, k: jax.vmap(jax.grad(f), (None, 0))(x, jnp.stack([k, 2 * k])),
            lambda f: lambda x, k: jax.vmap(jax.grad(f), (0, None))(x[:, None], k),
        ):
            results = (jax.tree.leaves(jax.jit(transform(h))(x, kernel)) for h in (g, f))
            for a, b in zip(*results, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_gradients_outside_jit_are_those_inside():
    form, (x, kernel, y) = arrays("large map")
    pull = lambda x, k, y: jax.vjp(lambda *a: convolution(*a, form.strides, form.padding), x, k)[1](
        y
    )
    for a, b in zip(pull(x, kernel, y), jax.jit(pull)(x, kernel, y), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_no_activation_is_gathered(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 9, 8, 3)).astype(np.float32)
    kernels = [
        rng.standard_normal(s).astype(np.float32)
        for s in ((5, 5, 3, 48), (3, 3, 48, 48), (3, 3, 48, 8), (1, 1, 8, 16))
    ]

    def loss(x, kernels):
        x = jax.nn.relu(convolution(x, kernels[0], (1, 1), ((2, 2), (2, 2))))
        x = jax.nn.relu(convolution(x, kernels[1], (1, 1), ((1, 1), (1, 1))))
        x = jax.nn.relu(convolution(x, kernels[2], (2, 2), ((1, 1), (1, 1))))
        return jnp.square(convolution(x, kernels[3], (1, 1), ((0, 0), (0, 0)))).mean()

    gradient = jax.grad(loss, (0, 1))
    ours = collectives.split(mesh, x), collectives.copied(mesh, kernels)
    assert collectives.count(gradient, *ours) == 0
    assert collectives.count(gradient, *ours, kind="all-to-all") == 0
    alone = jax.tree.leaves(gradient(x, kernels))
    for a, b in zip(jax.tree.leaves(jax.jit(gradient)(*ours)), alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_other_platforms_get_the_convolution_of_jax():
    form, (x, kernel, y) = arrays("large map")
    pull = lambda x, k, y: jax.vjp(lambda *a: convolution(*a, form.strides, form.padding), x, k)[1](
        y
    )
    for platform in ("cuda", "tpu"):
        text = jax.jit(pull).trace(x, kernel, y).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 2  # the two gradients
        assert "stablehlo.while" not in text
    exported = jax.export.export(jax.jit(pull), platforms=("cpu", "cuda", "tpu"))(x, kernel, y)
    for a, b in zip(exported.call(x, kernel, y), pull(x, kernel, y), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_batch_of_any_size_exports():
    kernel = jnp.ones((3, 3, 8, 4))
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, 6, 5, 8), jnp.float32)
    function = jax.jit(lambda x: convolution(x, kernel, (1, 1), ((1, 1), (1, 1))))
    exported = jax.export.export(function, platforms=("cpu", "cuda"))(x)
    assert exported.call(jnp.ones((3, 6, 5, 8))).shape == (3, 6, 5, 4)
