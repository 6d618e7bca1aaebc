import functools
import math

import jax
import numpy as np
import pytest
from flax import nnx
from parity_checks import check_parity

import spectral_flax as sf

CASES = {
    "resnet50": ("resnet50", {}),
    "ffc_resnet18": ("ffc_resnet18", dict(ratio=0.5, lfu=False)),
    "ffc_resnet18_odd": ("ffc_resnet18", dict(ratio=0.5, lfu=False)),
    "ffc_resnet26_ratio25": ("ffc_resnet26", dict(lfu=False)),
    "ffc_resnet50_lfu": ("ffc_resnet50", dict(ratio=0.5, lfu=True)),
    "ffc_resnext50_lfu": ("ffc_resnext50_32x4d", dict(ratio=0.25, lfu=True)),
}


# One for every run; what the others have besides, layers meet for themselves.
IN_TURN = [pytest.param(c, marks=() if c == "ffc_resnet18" else pytest.mark.full) for c in CASES]


@pytest.mark.parametrize("case", IN_TURN)
def test_the_published_numbers_are_met(case):
    name, options = CASES[case]
    check_parity(case, lambda **dtypes: sf.create_model(name, **options, **dtypes))


# Millions of parameters, counted from the published code: ratio 0, then .25, .5, .75 without and
# with LFU.
PARAMETERS = {
    "ffc_resnet18": (11.69, (11.57, 11.21, 10.61), (11.60, 11.32, 10.85)),
    "ffc_resnet34": (21.80, (21.42, 20.28, 18.37), (21.49, 20.54, 18.95)),
    "ffc_resnet50": (25.56, (26.10, 27.72, 30.40), (26.72, 30.18, 35.93)),
    "ffc_resnet101": (44.55, (46.12, 50.79, 58.54), (48.01, 58.29, 75.39)),
    "ffc_resnet152": (60.19, (62.62, 69.79, 81.72), (65.55, 81.44, 107.89)),
    "ffc_resnext50_32x4d": (25.03, (25.78, 28.02, 31.75), (26.47, 30.75, 37.87)),
}


@functools.cache
def parameters(name, **options) -> int:
    state = nnx.state(sf.abstract_model(name, **options), nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


# Those with bottlenecks under -m full; `EXACT` counts some in every run.
COUNTED = ("ffc_resnet18",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in COUNTED else pytest.mark.full) for n in PARAMETERS]
)
def test_parameters_are_those_of_the_published_code(name):
    plain, without, with_lfu = PARAMETERS[name]
    assert parameters(name, ratio=0) == parameters(name.removeprefix("ffc_"))
    counts = [parameters(name, ratio=0)]
    counts += [
        parameters(name, ratio=r, lfu=lfu) for lfu in (False, True) for r in (0.25, 0.5, 0.75)
    ]
    wanted = [plain, *without, *with_lfu]
    np.testing.assert_allclose(np.array(counts) / 1e6, wanted, atol=0.005 + 1e-9)


EXACT = {
    ("ffc_resnet18", (("ratio", 0.5), ("lfu", False))): 11_214_600,
    ("ffc_resnet26", (("lfu", False),)): 16_263_864,
    ("ffc_resnet50", (("ratio", 0.5),)): 30_178_760,
    ("ffc_resnext50_32x4d", ()): 26_471_528,
}


@pytest.mark.parametrize(("model", "count"), EXACT.items(), ids=str)
def test_parameters_are_exactly_those_of_the_published_models(model, count):
    name, options = model
    assert parameters(name, **dict(options)) == count


def test_ratio_zero_is_exactly_the_plain_network():
    options = dict(width=32, num_classes=4, depths=(1, 1, 1, 1))
    plain = sf.create_model("resnet50", rngs=nnx.Rngs(0), **options)
    ffc = sf.create_model("ffc_resnet50", ratio=0, rngs=nnx.Rngs(0), **options)
    assert jax.tree.structure(nnx.state(plain)) == jax.tree.structure(nnx.state(ffc))
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    outputs = [jax.jit(lambda model, x: model(x))(model, x) for model in (plain, ffc)]
    np.testing.assert_array_equal(*outputs)


@pytest.fixture(scope="module")
def small():
    model = sf.create_model("ffc_resnet18", width=32, num_classes=4, depths=(1, 1, 1, 1))
    model.eval()
    return model


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (7, 97), (1, 1)], ids=str)
def test_images_of_every_size_pass(size, small):
    logits = jax.jit(lambda x: small(x))(np.zeros((1, *size, 3), np.float32))
    assert logits.shape == (1, 4) and np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            np.zeros((2, 32, 32), np.float32),
            ValueError,
            r"shape \(2, 32, 32\); expected \[N, H, W, 3\]",
        ),
        (np.zeros((2, 32, 32, 1), np.float32), ValueError, r"expected \[N, H, W, 3\]"),
        (np.zeros((2, 32, 32, 3), np.uint8), TypeError, "uint8; expected a real floating"),
        (np.zeros((2, 0, 32, 3), np.float32), ValueError, "no empty spatial axis"),
    ],
)
def test_wrong_images_are_named(x, error, message, small):
    with pytest.raises(error, match=message):
        small(x)
