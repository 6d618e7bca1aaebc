"""What every registered model promises, on a narrow copy of it.

Everything here is traced, not compiled: what a model computes is compared with published numbers
elsewhere; that each name builds, maps its input to its output, lists its features, trains every
parameter and keeps its dtype is a matter of its program. A run takes a few names, among which each
backbone and each block is met with every partner that it could differ with; `-m full` has the rest.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import spectral_flax as sf
from spectral_flax.layers.blocks import BLOCKS
from spectral_flax.models.registry import MODELS

NAMES = sf.list_models()


def cases_of(name: str) -> set:
    """What a name is a case of: its backbone, its family with a block, its block with FFC or not.

    A block computes the same in all images; test_pose.py and test_segmentation.py have each.
    """
    ffc, rest = name.startswith("ffc_"), name.removeprefix("ffc_")
    block = next((b for b in sorted(BLOCKS, key=len)[::-1] if rest.endswith(f"_{b}")), None)
    backbone = rest.removesuffix(f"_{block}")
    family = backbone.partition("_")[0]
    rank = 3 if family in ("c2d", "i3d", "tsm", "tsn") else 2
    return {(ffc, backbone), (family, block is None), (ffc, block), (rank, block)}


def chosen(cases_of=cases_of) -> list[str]:
    """Few names among which each case is met of those that the names are."""
    # With few blocks a stage, networks that differ in depth alone are one and the same program.
    depths = ("resnet26", "resnet34", "resnet101", "resnet152", "resnext101", "lama_big")
    depths += ("gfnet_xs", "gfnet_small", "gfnet_base", "r2plus1d_resnet50")
    alone = "ccnet_resnet101"  # of one depth
    names = [n for n in NAMES if n == alone or not any(depth in n for depth in depths)]
    left, taken = set().union(*map(cases_of, names)), []
    while left:
        taken.append(max(names, key=lambda name: len(cases_of(name) & left)))
        left -= cases_of(taken[-1])
    return taken


CHOSEN = chosen()
BACKBONES = chosen(
    lambda name: {case for case in cases_of(name) if case[1] and case[1] not in {*BLOCKS, True}}
)


def marked(few: list[str]) -> list:
    return [pytest.param(name, marks=() if name in few else pytest.mark.full) for name in NAMES]


def options_of(name: str) -> dict:
    """Options that make the model narrow and shallow, of those that it has."""
    known = MODELS[name].options
    options = dict(width=32, depths=(1, 1, 1, 1), ratio=0.5, num_classes=3, encoder_width=32)
    options |= dict(depth=3, blocks=2, pyramid_features=16, head_features=16)
    if not any(dilated in name for dilated in ("dcn", "ccnet", "deeplab")):  # in the fourth stage
        options["depths"] = (1, 1, 1)
    return {k: v for k, v in options.items() if k in known}


@functools.cache
def traced(name: str):
    """The narrow model in shapes, and the shape of an input for it."""
    model = sf.abstract_model(name, **options_of(name), dtype=jnp.bfloat16)
    shape = (2, *sf.card(name).input_size, getattr(model, "in_features", 3))
    return model, jax.ShapeDtypeStruct(shape, jnp.float32)


def pure(model, training: bool):
    """Split a model into functions of arrays, and these: parameters, and statistics."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    mode = dict(use_running_average=not training, deterministic=not training)

    def module(params, rest):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return nnx.view(merged, raise_if_not_found=False, **mode)

    return module, params, rest


@pytest.mark.parametrize("name", marked(BACKBONES))
def test_a_model_maps_its_input_and_lists_its_features(name):
    model, x = traced(name)
    module, params, rest = pure(model, training=False)

    def evaluate(params, rest, x):
        evaluated = module(params, rest)
        return evaluated(x), evaluated.features(x)

    y, features = jax.eval_shape(evaluate, params, rest, x)
    assert y.dtype == jnp.bfloat16 and y.shape[0] == 2
    if "num_classes" in options_of(name) and y.ndim == 2:
        assert y.shape[-1] == 3
    assert len(features) >= 3
    assert all(f.shape[0] == 2 and f.ndim == x.ndim for f in features.values())
    assert all(f.dtype == jnp.bfloat16 for f in jax.tree.leaves(features))


@pytest.mark.parametrize("name", marked(CHOSEN))
def test_training_reaches_every_parameter_and_statistic_and_bfloat16_stays(name):
    model, x = traced(name)
    module, params, rest = pure(model, training=True)

    def step(params, rest, x):
        def loss(params):
            trained = module(params, rest)
            y = trained(x)
            return jnp.square(y.astype(jnp.float32)).sum(), (
                nnx.state(trained, nnx.Not(nnx.Param)),
                y,
            )

        gradients, (statistics, y) = jax.grad(loss, has_aux=True)(params)
        return (gradients, statistics), y

    jaxpr, (changed, y) = jax.make_jaxpr(step, return_shape=True)(params, rest, x)
    assert y.dtype == jnp.bfloat16
    learned = jax.tree_util.tree_leaves_with_path(changed)
    floating = {jax.tree_util.keystr(p): a for p, a in learned if a.dtype.name.startswith("float")}
    assert all(a.dtype == jnp.float32 for a in floating.values())
    inputs = len(jax.tree.leaves((params, rest)))
    moved = reached(jaxpr.jaxpr, [False] * inputs + [True])
    names = [jax.tree_util.keystr(p) for p, _ in learned]
    still = [n for n, m in zip(names, moved, strict=False) if not m and n in floating]
    assert not still


def reached(jaxpr, inputs: list[bool]) -> list[bool]:
    """Which outputs of a program depend on the marked inputs; calls are followed, loops assumed."""
    marked = dict(zip(jaxpr.invars, inputs, strict=True))
    of = lambda v: not isinstance(v, jax.extend.core.Literal) and marked.get(v, False)
    for equation in jaxpr.eqns:
        arguments = [of(v) for v in equation.invars]
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(inner.invars) == len(arguments):
            results = reached(inner, arguments)
        else:
            results = [any(arguments)] * len(equation.outvars)
        marked |= dict(zip(equation.outvars, results, strict=False))
    return [of(v) for v in jaxpr.outvars]


def test_every_card_says_where_a_model_is_from():
    for name in NAMES:
        card = sf.card(name)
        channels = 1 if name == "fno2d" else 3  # values of a function, no colours
        assert card.paper and len(card.mean) == len(card.std) == channels, name
