"""What is counted as a move between devices is found where there is one."""

import functools

import collectives
import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from spectral_flax.analysis.collectives import collectives as read

X, KERNEL = jnp.ones((16, 6, 7, 8)), jnp.ones((3, 3, 2, 16))


def grouped(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    options = dict(dimension_numbers=numbers, feature_group_count=4)
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **options)


def test_a_plain_grouped_convolution_moves_its_batch(mesh):
    """The fault that ours must not have, by the very count of its tests."""
    gradient = jax.grad(lambda x, kernel: jnp.square(grouped(x, kernel)).sum(), (0, 1))
    given = collectives.split(mesh, X), collectives.copied(mesh, KERNEL)
    assert collectives.count(gradient, *given) > 0


def constrained(mesh, spec, x):
    return lax.with_sharding_constraint(2 * x, NamedSharding(mesh, spec))


def shifted(mesh, x):
    ring = [(i, (i + 1) % 8) for i in range(8)]
    move = lambda x: lax.ppermute(x, "data", ring)
    return jax.shard_map(move, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(x)


def summed(mesh, x):
    return lax.with_sharding_constraint(x.sum(0), NamedSharding(mesh, P()))


MOVED = {
    "all-gather": lambda mesh: functools.partial(constrained, mesh, P()),
    "all-to-all": lambda mesh: functools.partial(constrained, mesh, P(None, None, None, "data")),
    "collective-permute": lambda mesh: functools.partial(shifted, mesh),
    "all-reduce": lambda mesh: functools.partial(summed, mesh),
}


@pytest.mark.parametrize("kind", MOVED)
def test_each_kind_of_move_is_counted_by_its_name(kind, mesh):
    function, x = MOVED[kind](mesh), collectives.split(mesh, X)
    assert collectives.count(function, x, kind=kind) > 0
    assert (collectives.count(function, x) > 0) == (kind != "all-reduce")
    for other in MOVED.keys() - {kind}:
        assert collectives.count(function, x, kind=other) == 0, other


def test_what_a_loop_moves_is_counted_as_often_as_it_runs(mesh):
    def often(x):
        ring = [(i, (i + 1) % 8) for i in range(8)]
        twice = lambda _, x: lax.ppermute(jnp.sin(lax.ppermute(x, "data", ring)), "data", ring)
        body = lambda _, x: jnp.cos(lax.fori_loop(0, 3, twice, x))
        return lax.fori_loop(0, 5, body, x)

    function = jax.shard_map(often, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert collectives.count(function, collectives.split(mesh, X), kind="collective-permute") == 30


def test_a_branch_counts_as_if_it_were_taken(mesh):
    def often(x):
        ring = [(i, (i + 1) % 8) for i in range(8)]
        send = lambda x: lax.ppermute(x, "data", ring)
        body = lambda i, x: lax.cond(i > 2, send, jnp.sin, x)
        return lax.fori_loop(0, 5, body, x)

    function = jax.shard_map(often, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert collectives.count(function, collectives.split(mesh, X), kind="collective-permute") == 5


def test_work_on_each_example_moves_nothing(mesh):
    assert collectives.count(lambda x: jnp.tanh(x) * 2, collectives.split(mesh, X)) == 0


def test_bytes_are_those_of_results_of_any_type():
    text = """
      %a = f32[8,4]{1,0} all-reduce(%x), replica_groups={}
      %b = (f32[2]{0}, bf16[3]{0}) all-reduce(%x, %y)
      %c = (s8[2], s8[16]) all-gather-start(%x), dimensions={0}
      %d = s8[16] all-gather-done(%c)
      %e = pred[] all-gather(%x)
      ROOT %f = c64[2,2] all-to-all(%x)
    """
    assert read(text) == {"all-reduce": (2, 142), "all-gather": (2, 17), "all-to-all": (1, 32)}
